"""What a plan takes really: a masked copy of the model is compiled and raced against the dense one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from torch import nn

from monstera.compiler import compile as compile_
from monstera.measure import Inputs, Pace, race
from monstera.measure.peers.peer import as_numpy
from monstera.search.costs.subject import without_zeros
from monstera.sparsity import Plan, projected_copy

ROUNDS = 5
ROUND_S = 0.1


@dataclass(frozen=True, slots=True)
class Measured:
    """Milliseconds of a call of our own engines, taken in turns: without holes, and with those of a plan."""

    dense_ms: float
    ms: float

    @property
    def gain(self) -> float:
        """How many times faster with the holes."""
        return self.dense_ms / self.ms

    def __str__(self) -> str:
        return f"{self.dense_ms:.4g} ms dense, {self.ms:.4g} ms with the holes"


Measure: TypeAlias = Callable[[Plan], Measured]


def measure_of(model: nn.Module, example: Inputs, threads: int = 1, target: str = "native") -> Measure | None:
    """A function that measures plans on this machine; None where this machine cannot run the target.

    The model is compiled here, its own holes filled, so that dense is dense as in its costs; of each plan a copy is
    pruned by magnitude. Engines are called with arrays, as costs and benchmarks call them.

    Raises:
        ValueError, UnsupportedError, BuildError, RuntimeError: as for `monstera.compile`.
    """
    dense = compile_(without_zeros(model), example, threads=threads, target=target)
    if not dense.runs_here:
        return None
    args, kwargs = as_numpy(example)

    def measure(plan: Plan) -> Measured:
        sparse = compile_(projected_copy(model, plan), example, threads=threads, target=target)
        calls = {"dense": partial(dense, *args, **kwargs), "sparse": partial(sparse, *args, **kwargs)}
        pace = Pace(threads, len(calls) * ROUNDS * ROUND_S)
        timings = race(calls, rounds=ROUNDS, round_s=ROUND_S, pace=pace)
        return Measured(timings["dense"].median_ms, timings["sparse"].median_ms)

    return measure
