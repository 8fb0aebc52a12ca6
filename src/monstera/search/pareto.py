"""What can be had: accuracy against milliseconds, the plans that nothing beats, the one chosen, and how it was found.

One form, and one file, for plans by rule, by search and all alike, so that they can be shown side by side.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monstera.measure.result_file import in_format, read_json, write_json
from monstera.search.cost import Costs
from monstera.search.space import DENSE
from monstera.sparsity import Plan

FORMAT = "monstera.pareto.1"
_AT = " at density "


def non_dominated(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Which of the points (accuracy, ms) no other beats: their places, from the fastest to the most accurate.

    A point beats another that is no more accurate and no faster, and not equal. Of equal points the first is kept.

    Example:
        >>> non_dominated([(0.9, 5.0), (0.8, 3.0), (0.7, 4.0), (0.9, 6.0)])
        (1, 0)
    """
    front: list[int] = []
    # At equal times the most accurate comes first, and of equal points the first.
    for place in sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0], i)):
        if not front or points[place][0] > points[front[-1]][0]:
            front.append(place)
    return tuple(front)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan with what it reaches; `source` says where it is from: "rules", "4x1", "search by rl"."""

    source: str
    plan: Plan
    accuracy: float
    ms: float


@dataclass(frozen=True, slots=True)
class Layer:
    """What was decided for a weight, and what all its uses take in a call: dense, and so."""

    weight: str
    entry: str
    dense_ms: float
    ms: float


def layers_of(plan: Plan, costs: Costs) -> tuple[Layer, ...]:
    """The decision for every weight that the costs know, in the order in which layers run."""
    entries = {weight: plan.get(weight) for weight in costs.weights}
    return tuple(
        Layer(weight, DENSE if entry is None else str(entry), costs.layer_ms(weight), costs.layer_ms(weight, entry))
        for weight, entry in entries.items()
    )


@dataclass(frozen=True, slots=True)
class Pareto:
    """Candidates for one network, and which was chosen.

    Attributes:
        network: its name.
        accuracy_of: what accuracies are of: "2000 held-out training pictures, pruned at once".
        ms_of: what milliseconds are: "predicted, 1 thread, <processor>", or "measured, ...".
        candidates: in any order; the network without holes may be one, with an empty plan.
        chosen: the place of the chosen one, if one is.
        latency_ms: the budget that it was chosen for, if there was one.
        layers: the decisions of the chosen one.
        curves: by name, a value for each trial so far: the best reward of searches.

    Raises:
        ValueError: there are no candidates, or `chosen` is none of them.
    """

    network: str
    accuracy_of: str
    ms_of: str
    candidates: tuple[Candidate, ...]
    chosen: int | None = None
    latency_ms: float | None = None
    layers: tuple[Layer, ...] = ()
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.candidates or (self.chosen is not None and not 0 <= self.chosen < len(self.candidates)):
            raise ValueError(
                f"{self.network}: expected candidates and one of them chosen, got {len(self.candidates)} and "
                f"{self.chosen}"
            )

    @property
    def front(self) -> tuple[Candidate, ...]:
        """The candidates that no other beats, from the fastest to the most accurate."""
        points = [(candidate.accuracy, candidate.ms) for candidate in self.candidates]
        return tuple(self.candidates[place] for place in non_dominated(points))


def pareto_to_json(data: Pareto) -> dict[str, Any]:
    """Return it as values that JSON has; `front` is there for readers in other languages."""
    places = non_dominated([(c.accuracy, c.ms) for c in data.candidates])
    return {
        "format": FORMAT,
        "network": data.network,
        "accuracy_of": data.accuracy_of,
        "ms_of": data.ms_of,
        "latency_ms": data.latency_ms,
        "candidates": [
            {"source": c.source, "accuracy": c.accuracy, "ms": c.ms, "plan": plan_to_json(c.plan)}
            for c in data.candidates
        ],
        "front": list(places),
        "chosen": data.chosen,
        "layers": [
            {"weight": row.weight, "entry": row.entry, "dense_ms": row.dense_ms, "ms": row.ms} for row in data.layers
        ],
        "curves": {name: list(values) for name, values in data.curves.items()},
    }


def pareto_from_json(data: Any) -> Pareto:
    """The inverse of `pareto_to_json`.

    Raises:
        ValueError: it is of another format, or damaged.
    """
    return in_format(data, FORMAT, _pareto)


def _pareto(data: Mapping[str, Any]) -> Pareto:
    return Pareto(
        network=data["network"],
        accuracy_of=data["accuracy_of"],
        ms_of=data["ms_of"],
        candidates=tuple(
            Candidate(c["source"], plan_from_json(c["plan"]), c["accuracy"], c["ms"]) for c in data["candidates"]
        ),
        chosen=data["chosen"],
        latency_ms=data["latency_ms"],
        layers=tuple(Layer(**row) for row in data["layers"]),
        curves={name: tuple(values) for name, values in data["curves"].items()},
    )


def read_pareto(path: str | os.PathLike[str]) -> Pareto:
    """Read the JSON file at `path`.

    Raises:
        ValueError: it is no such file; the message names it.
    """
    return read_json(path, pareto_from_json)


def write_pareto(data: Pareto, path: str | os.PathLike[str]) -> None:
    """Write it to `path` as JSON, whole or not at all."""
    write_json(pareto_to_json(data), path)


def plan_to_json(plan: Plan) -> dict[str, str]:
    """Weight -> "4x1 at density 0.25", a line each; the density with all its digits."""
    return {name: f"{entry.pattern}{_AT}{entry.density!r}" for name, entry in plan.items()}


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """The inverse of `plan_to_json`.

    Raises:
        ValueError: it is no plan.
    """
    try:
        parts = {name: text.rsplit(_AT, 1) for name, text in data.items()}
        return Plan({name: (pattern, float(density)) for name, (pattern, density) in parts.items()})
    except (ValueError, AttributeError) as reason:
        raise ValueError(f'not a plan, weight -> "4x1{_AT}0.25": {reason}') from reason
