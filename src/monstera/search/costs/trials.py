"""How well costs predict real engines: random plans, predicted, compiled and measured, as plain values in a file."""

from __future__ import annotations

import math
import os
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from monstera.measure.machine import Machine
from monstera.measure.result_file import in_format, read_json, write_json
from monstera.search.costs.law import rank_correlation
from monstera.sparsity import Entry, Pattern, Plan, find_view

FORMAT = "monstera.prediction.1"
# Densities of random plans are log-uniform between these.
SPARSEST, DENSEST = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A plan: predicted and measured milliseconds, surviving share of multiply-accumulates, error of the answer.

    `spread` is that of the rounds, relative to their median; in `disturbed` rounds the machine was never calm.
    """

    predicted_ms: float
    measured_ms: float
    density: float
    error: float
    spread: float
    disturbed: int = 0

    @property
    def miss(self) -> float:
        """Predicted by measured time, less one."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True, slots=True)
class Trials:
    """What one run found of a network: dense, and under random plans.

    `law` says how well unmeasured layers are predicted from the same table; `command` makes the file anew.
    """

    network: str
    inputs: tuple[int, ...]
    threads: int
    date: str
    machine: Machine
    command: str
    patterns: tuple[str, ...]
    seed: int
    law: str
    dense: Trial
    plans: tuple[Trial, ...]

    def __post_init__(self) -> None:
        if not self.plans:
            raise ValueError("expected at least one plan")

    @property
    def median_error(self) -> float:
        """The median of the absolute errors, relative to the measured time."""
        return statistics.median(abs(trial.miss) for trial in self.plans)

    @property
    def largest_error(self) -> float:
        """The largest of them."""
        return max(abs(trial.miss) for trial in self.plans)

    @property
    def rank_correlation(self) -> float:
        """How well predictions order the plans (Spearman)."""
        predicted, measured = ([getattr(t, name) for t in self.plans] for name in ("predicted_ms", "measured_ms"))
        return rank_correlation(np.array(predicted), np.array(measured))


def random_plan(model: nn.Module, weights: Sequence[str], patterns: Sequence[Pattern], rng: random.Random) -> Plan:
    """Draw a pattern for each weight, and a density, log-uniform between `SPARSEST` and `DENSEST`.

    Patterns that a weight cannot have, or not at the density drawn, are not drawn; where all are such it stays dense.
    """
    entries = {}
    for name in weights:
        view = find_view(model, name)
        shape, layout = view.weight.shape, view.layout
        density = math.exp(rng.uniform(math.log(SPARSEST), math.log(DENSEST)))
        own = [p for p in patterns if p.feasible(None, shape, layout)]
        fitting = [*own, *(p for p in patterns if p not in own and p.feasible(density, shape, layout))]
        if fitting:
            chosen = rng.choice(fitting)
            entries[name] = Entry(chosen, None if chosen in own else density)
    return Plan(entries)


def trials_to_json(trials: Trials) -> dict[str, Any]:
    """Return trials as values that JSON has, with the format's name beside them."""
    return {"format": FORMAT, **asdict(trials)}


def trials_from_json(data: Any) -> Trials:
    """Return the trials that `trials_to_json` made `data` of.

    Raises:
        ValueError: `data` is not of this format, or its values do not fit together.
    """
    return in_format(data, FORMAT, _trials)


def _trials(data: Mapping[str, Any]) -> Trials:
    made = {
        "machine": Machine(**data["machine"]),
        "inputs": tuple(data["inputs"]),
        "patterns": tuple(data["patterns"]),
        "dense": Trial(**data["dense"]),
        "plans": tuple(Trial(**plan) for plan in data["plans"]),
    }
    return Trials(**{name: made.get(name, value) for name, value in data.items() if name != "format"})


def read_trials(path: str | os.PathLike[str]) -> Trials:
    """Read the trials in the JSON file at `path`.

    Raises:
        ValueError: the file is not such a result; the message names it.
    """
    return read_json(path, trials_from_json)


def write_trials(trials: Trials, path: str | os.PathLike[str]) -> None:
    """Write trials to `path` as JSON that `read_trials` reads; see `write_json`."""
    write_json(trials_to_json(trials), path)
