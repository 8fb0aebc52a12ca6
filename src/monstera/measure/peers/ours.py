"""Monstera as one of the engines."""

from __future__ import annotations

from torch import nn

from monstera.compiler import compile as compile_native
from monstera.compiler.tuning import Effort
from monstera.measure.answers import Inputs
from monstera.measure.peers.peer import Call, Peer, as_numpy


def monstera(tune: Effort = "none") -> Peer:
    """Return Monstera as an engine, compiled with this effort of tuning."""

    def prepare(model: nn.Module, example: Inputs, threads: int) -> Call:
        engine = compile_native(model, example, threads=threads, tune=tune)
        args, kwargs = as_numpy(example)
        return lambda: engine(*args, **kwargs)

    return Peer("monstera", prepare, guest=False)


MONSTERA = monstera()
