"""Monstera as one of the engines."""

from __future__ import annotations

from torch import nn

from monstera.compiler import compile as compile_native
from monstera.measure.answers import Inputs
from monstera.measure.peers.peer import Call, Peer, as_numpy


def _monstera(model: nn.Module, example: Inputs, threads: int) -> Call:
    engine = compile_native(model, example, threads=threads)
    args, kwargs = as_numpy(example)
    return lambda: engine(*args, **kwargs)


MONSTERA = Peer("monstera", _monstera, guest=False)
