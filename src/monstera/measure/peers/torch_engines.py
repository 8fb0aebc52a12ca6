"""torch itself: eager, and compiled by inductor."""

from __future__ import annotations

import os
import shutil
import warnings
from typing import Any

import torch
from torch import nn

from monstera.measure.answers import Inputs, arguments
from monstera.measure.peers.peer import Call, Peer, torch_threads


def _eager(model: nn.Module, example: Inputs, _: int) -> Call:
    args, kwargs = arguments(example)

    def call() -> Any:
        with torch.inference_mode():
            return model(*args, **kwargs)

    return call


def _inductor(model: nn.Module, example: Inputs, threads: int) -> Call:
    from torch._inductor import config

    args, kwargs = arguments(example)
    compiled = torch.compile(model)

    def call() -> Any:
        with torch.no_grad():
            return compiled(*args, **kwargs)

    # Freezing folds batch norm and packs the weights; it is read when the first call compiles.
    with config.patch(freezing=True), torch_threads(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call()
    return call


def _inductor_missing() -> str:
    return "" if shutil.which(os.environ.get("CXX", "g++")) else "needs a C++ compiler"


EAGER = Peer("torch eager", _eager)
INDUCTOR = Peer("torch.compile", _inductor, _inductor_missing)
