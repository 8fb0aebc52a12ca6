"""What a search found: every trial, the best of them, and the way there."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from monstera.measure.result_file import in_format, read_json, write_json
from monstera.search.objective import Objective
from monstera.search.pareto import Candidate, non_dominated, plan_from_json, plan_to_json
from monstera.sparsity import Plan

FORMAT = "monstera.search.1"


@dataclass(frozen=True, slots=True)
class Tried:
    """A trial: its number in the study, its plan, what came out, and how long it took.

    `same_as` is the earlier trial of the same plan whose accuracy was taken over, if there was one.
    """

    number: int
    plan: Plan
    accuracy: float
    ms: float
    reward: float
    seconds: float
    same_as: int | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The completed trials of a study, by number. Prints what was found.

    Attributes:
        name: of the study.
        sampler: who proposed the points.
        seed: of the sampler.
        objective: what was maximised; its budget is milliseconds of a call.
        dense_ms: a call without holes.
        trials: all that were completed.
        facts: what the caller said of the evaluation.

    Raises:
        ValueError: there are no trials.
    """

    name: str
    sampler: str
    seed: int
    objective: Objective
    dense_ms: float
    trials: tuple[Tried, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.trials:
            raise ValueError(f"study {self.name!r} has no completed trial")

    @property
    def best(self) -> Tried | None:
        """The most accurate trial within the budget, of equal ones the fastest; None if none is within it."""
        within = [trial for trial in self.trials if self.objective.feasible(trial.ms)]
        return max(within, key=lambda trial: (trial.accuracy, -trial.ms, -trial.number), default=None)

    @property
    def plan(self) -> Plan:
        """The plan of the best trial.

        Raises:
            ValueError: no trial was within the budget; the fastest is named.
        """
        if self.best is None:
            fastest = min(self.trials, key=lambda trial: trial.ms)
            raise ValueError(
                f"none of {len(self.trials)} trials is within {self.objective.budget:.4g} ms; the fastest, number "
                f"{fastest.number}, takes {fastest.ms:.4g}; allow more, try more, or give lower densities"
            )
        return self.best.plan

    @property
    def front(self) -> tuple[Tried, ...]:
        """The trials that no other beats in accuracy and time, from the fastest to the most accurate."""
        return tuple(self.trials[place] for place in non_dominated([(t.accuracy, t.ms) for t in self.trials]))

    @property
    def rewards(self) -> tuple[float, ...]:
        """The best reward after each trial."""
        return tuple(itertools.accumulate((trial.reward for trial in self.trials), max))

    @property
    def accuracies(self) -> tuple[float, ...]:
        """The best accuracy within the budget after each trial, 0 before there is one."""
        within = (trial.accuracy if self.objective.feasible(trial.ms) else 0.0 for trial in self.trials)
        return tuple(itertools.accumulate(within, max))

    @property
    def evaluations(self) -> int:
        """How many different plans were evaluated."""
        return sum(trial.same_as is None for trial in self.trials)

    def candidates(self) -> tuple[Candidate, ...]:
        """The front, as `Pareto` takes it."""
        return tuple(Candidate(f"search by {self.sampler}", t.plan, t.accuracy, t.ms) for t in self.front)

    def __str__(self) -> str:
        seconds, trials, plans = sum(trial.seconds for trial in self.trials), len(self.trials), self.evaluations
        lines = [
            f"{self.name}: {trials} trial{'s' * (trials != 1)} by {self.sampler} (seed {self.seed}), "
            f"{plans} plan{'s' * (plans != 1)} evaluated in {seconds:.0f} s",
            f"asked for: {self.objective.budget:.4g} ms a call; without holes it takes {self.dense_ms:.4g}",
        ]
        best = self.best
        if best is None:
            fastest = min(trial.ms for trial in self.trials)
            return "\n".join([*lines, f"no trial is within the budget; the fastest takes {fastest:.4g} ms"])
        found = f"best: trial {best.number}, accuracy {best.accuracy:.2%}, {best.ms:.4g} ms"
        return "\n".join([*lines, found, str(best.plan)])


def search_to_json(result: SearchResult) -> dict[str, Any]:
    """Return it as values that JSON has."""
    return {
        "format": FORMAT,
        "name": result.name,
        "sampler": result.sampler,
        "seed": result.seed,
        "objective": asdict(result.objective),
        "dense_ms": result.dense_ms,
        "facts": dict(result.facts),
        "best": None if result.best is None else result.best.number,
        "trials": [
            {
                "number": t.number,
                "accuracy": t.accuracy,
                "ms": t.ms,
                "reward": t.reward,
                "seconds": t.seconds,
                "same_as": t.same_as,
                "plan": plan_to_json(t.plan),
            }
            for t in result.trials
        ],
    }


def search_from_json(data: Any) -> SearchResult:
    """The inverse of `search_to_json`.

    Raises:
        ValueError: it is of another format, or damaged.
    """
    return in_format(data, FORMAT, _search)


def _search(data: Mapping[str, Any]) -> SearchResult:
    return SearchResult(
        name=data["name"],
        sampler=data["sampler"],
        seed=data["seed"],
        objective=Objective(**data["objective"]),
        dense_ms=data["dense_ms"],
        trials=tuple(Tried(**{**t, "plan": plan_from_json(t["plan"])}) for t in data["trials"]),
        facts=data["facts"],
    )


def read_search(path: str | os.PathLike[str]) -> SearchResult:
    """Read the JSON file at `path`.

    Raises:
        ValueError: it is no such file; the message names it.
    """
    return read_json(path, search_from_json)


def write_search(result: SearchResult, path: str | os.PathLike[str]) -> None:
    """Write it to `path` as JSON, whole or not at all."""
    write_json(search_to_json(result), path)
