"""Times Monstera's engines against each other along the axes of a study: answers first, then interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn

from monstera.compiler import compile as compile_native
from monstera.measure.answers import Inputs, WrongAnswerError, max_error, reference
from monstera.measure.macs import Macs, count_macs
from monstera.measure.peak import Pace
from monstera.measure.peers import FP32_TOLERANCE
from monstera.measure.peers.peer import as_numpy
from monstera.measure.study import Fact, Point
from monstera.measure.timing import MIN_ROUNDS, Timing, race
from monstera.runtime import Engine, LayerProfile

# Runs of which the profile of a kernel takes the median, in each round.
_PROFILE_RUNS = 20
# About what they take, for a layer.
_PROFILE_S = 0.1


@dataclass(frozen=True, slots=True)
class Case:
    """A network to be compiled and timed as one point of a study; `options` go to `monstera.compile` as they are."""

    sweep: str
    line: str
    at: Fact
    model: nn.Module
    example: Inputs
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Fact] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Sweep, line and place as one name."""
        return f"{self.sweep}: {self.line} at {self.at}"


@dataclass(frozen=True, slots=True)
class _Ready:
    """A case whose engine has given the right answer."""

    case: Case
    engine: Engine
    macs: Macs
    error: float


def race_cases(
    cases: Sequence[Case], *, rounds: int = 5, round_s: float = 0.3, on_step: Callable[[str], None] = lambda _: None
) -> tuple[Point, ...]:
    """Time whole runs of every case, interleaved (see `race`), and return their points in order.

    Raises:
        WrongAnswerError: an engine is off by more than fp32 arithmetic in another order may be.
    """
    ready = _prepare(cases, on_step)
    calls = {str(index): partial(_call, r.engine, as_numpy(r.case.example)) for index, r in enumerate(ready)}
    timings = race(
        calls,
        rounds=rounds,
        round_s=round_s,
        pace=_pace(cases, rounds * round_s),
        on_round=lambda done: on_step(f"round {done} of {rounds} timed"),
    )
    return tuple(_point(r, timings[str(index)], r.case.facts) for index, r in enumerate(ready))


def profile_cases(
    cases: Sequence[Case], *, rounds: int = 5, on_step: Callable[[str], None] = lambda _: None
) -> tuple[Point, ...]:
    """Time only the steps with weights, as `Engine.profile` sees them, and return their points in order.

    For single layers, whose copies at both ends would blur them. In each round every engine has its turn of twenty
    runs; `min_ms` is the fastest of these medians. The facts get the kernels' names, and the bytes that any kernel has
    to touch: surviving weights, inputs and outputs, once.

    Raises:
        ValueError: fewer than 3 rounds.
        WrongAnswerError: as for `race_cases`.
    """
    if rounds < MIN_ROUNDS:
        raise ValueError(f"expected at least {MIN_ROUNDS} rounds, got {rounds}")
    ready = _prepare(cases, on_step)
    pace = _pace(cases, rounds * _PROFILE_S)
    seen: list[list[tuple[LayerProfile, ...]]] = [[] for _ in ready]
    disturbed = [0] * len(ready)
    for done in range(1, rounds + 1):
        for i, r in enumerate(ready):
            profiles, calm = pace.undisturbed(partial(_weighted, r.engine))
            seen[i].append(profiles)
            disturbed[i] += not calm
        on_step(f"round {done} of {rounds} timed")
    return tuple(map(_profiled, ready, seen, disturbed))


def _pace(cases: Sequence[Case], case_s: float) -> Pace:
    return Pace(max((case.threads for case in cases), default=1), len(cases) * case_s)


def _prepare(cases: Iterable[Case], on_step: Callable[[str], None]) -> list[_Ready]:
    ready = []
    for case in cases:
        on_step(f"preparing {case.label}")
        engine = compile_native(case.model, case.example, threads=case.threads, fallback=None, **case.options)
        error = max_error(_call(engine, as_numpy(case.example)), reference(case.model, case.example))
        if not error <= FP32_TOLERANCE:
            raise WrongAnswerError(f"{case.label}: off by {error:.1e} of the largest output")
        ready.append(_Ready(case, engine, count_macs(case.model, case.example), error))
    return ready


def _call(engine: Engine, given: tuple[tuple[Any, ...], dict[str, Any]]) -> object:
    args, kwargs = given
    return engine(*args, **kwargs)


def _weighted(engine: Engine) -> tuple[LayerProfile, ...]:
    """The steps that multiply weights, timed."""
    return tuple(layer for layer in engine.profile(rounds=_PROFILE_RUNS).layers if layer.dense_macs)


def _profiled(ready: _Ready, profiles: Sequence[tuple[LayerProfile, ...]], disturbed: int) -> Point:
    times_ms = tuple(sum(layer.ms for layer in layers) for layers in profiles)
    timing = Timing(times_ms, min(times_ms), _PROFILE_RUNS * len(times_ms), disturbed)
    kernels = ", ".join(dict.fromkeys(layer.kernel for layer in profiles[0]))
    return _point(ready, timing, {**ready.case.facts, "kernel": kernels, "bytes": _least_bytes(ready)})


def _least_bytes(ready: _Ready) -> int:
    """Counted on the module, so that no kernel looks better for carrying more than it must."""
    weights = sum(int(torch.count_nonzero(parameter)) for parameter in ready.case.model.parameters())
    manifest = ready.engine.manifest
    values = sum(prod(shape) for shape in (*(i.shape for i in manifest.inputs), *manifest.outputs))
    return 4 * (weights + values)


def _point(ready: _Ready, timing: Timing, facts: Mapping[str, Fact]) -> Point:
    case = ready.case
    return Point(case.sweep, case.line, case.at, ready.macs, ready.error, timing, "", case.threads, dict(facts))
