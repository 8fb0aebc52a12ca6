"""What a candidate costs: a call of the whole compiled network, not a sum over its layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monstera.compiler import compile as compile_
from monstera.measure import count_macs, race

ROUNDS = 9
ROUND_S = 0.05


def measured_ms(model: nn.Module, example: Tensor, *, threads: int = 1) -> float:
    """Compile a network with the zeros it has, and time whole calls: milliseconds.

    The median of each of nine rounds of up to 100 calls, and the least of these: what else runs on the machine only
    ever adds time, and may do so for a whole round.
    """
    engine = compile_(model, example, threads=threads)
    array = example.numpy()
    return min(race({"candidate": lambda: engine(array)}, rounds=ROUNDS, round_s=ROUND_S)["candidate"].rounds_ms)


def surviving_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of a call by weights that are not zero."""
    with torch.no_grad():
        return count_macs(model, example).surviving
