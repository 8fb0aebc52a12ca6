"""What a network costs under any plan, without compiling: measured layers, interpolated, and a law for the others."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from monstera.runtime.strict_json import decoded, encoded, parse_json
from monstera.search.costs.law import Law
from monstera.search.costs.signature import Signature
from monstera.search.costs.table import CostTableError, Machine, Point
from monstera.sparsity import Block, Entry, Intersection, KernelPattern, Pattern, Plan

FORMAT, VERSION = "monstera network costs", 1


@dataclass(frozen=True, slots=True)
class Curve:
    """Milliseconds of a layer over the density of one pattern: affine between the points, which end with dense.

    Below the first point it goes on as the line between the first two, but falls at most in proportion to density.

    Raises:
        ValueError: densities do not ascend, or times do not.
    """

    densities: tuple[float, ...]
    ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.densities) != len(self.ms) or not self.ms or any(a >= b for a, b in pairwise(self.densities)):
            raise ValueError(f"expected a time for each of some ascending densities, got {self}")
        if any(a > b for a, b in pairwise(self.ms)) or min(self.ms) <= 0:
            raise ValueError(f"expected positive times that ascend with density, got {self}")

    def at(self, density: float) -> float:
        """The time at a density from 0, exclusive, to 1."""
        x, y = self.densities, self.ms
        i = bisect_left(x, density)
        if i >= len(x):
            return y[-1]
        if x[i] == density:
            return y[i]
        if i:
            share = (density - x[i - 1]) / (x[i] - x[i - 1])
            return y[i - 1] + share * (y[i] - y[i - 1])
        slope = (y[1] - y[0]) / (x[1] - x[0]) if x[-1] > x[0] else 0.0
        return max(y[0] - slope * (x[0] - density), y[0] * density / x[0])


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """One weight: its layers, dense ms, whether these were measured, and a curve for each pattern that was."""

    signature: Signature
    dense_ms: float
    is_measured: bool
    curves: Mapping[str, Curve]


@dataclass(frozen=True, slots=True)
class NetworkCosts:
    """Predicted milliseconds of one call of one network on one machine; fulfils `monstera.search.Costs`.

    Attributes:
        layers: by weight, in the order in which they run.
        rest_ms: what is no layer with weights.
        law: predicts patterns that were not measured; None where a table holds too little to fit one.
        machine: whose time it is.
    """

    layers: Mapping[str, LayerCosts]
    rest_ms: float
    rest_measured: bool
    law: Law | None
    machine: Machine
    threads: int

    @property
    def dense_ms(self) -> float:
        """A call of the network without holes, by our own engine."""
        return sum(layer.dense_ms for layer in self.layers.values()) + self.rest_ms

    @property
    def weights(self) -> tuple[str, ...]:
        """The parameters that plans can name, in the order in which their layers run."""
        return tuple(self.layers)

    def layer_ms(self, weight: str, entry: Entry | None = None) -> float:
        """All uses of one weight in a call, with the holes of `entry` or dense.

        Raises:
            KeyError: the network has no such weight.
            CostTableError: the pattern was not measured, and there is too little to predict it from.
        """
        layer = self._layer(weight)
        if entry is None:
            return layer.dense_ms
        curve = layer.curves.get(alone(entry.pattern).name)
        if curve is not None:
            return curve.at(entry.density)
        if not layer.signature.macs:  # a table to look up in
            return layer.dense_ms
        if self.law is None:
            raise CostTableError(
                f"{weight}: {entry.pattern} was not measured in this layer, and there are too few times to predict it "
                f"from; measured: {', '.join(layer.curves) or 'nothing but dense'}"
            )
        # The law says how much faster, which it knows better than how fast.
        ratio = self.law.ms(layer.signature, entry) / self.law.ms(layer.signature)
        return layer.dense_ms * min(1.0, ratio)

    def network_ms(self, plan: Mapping[str, Entry] | Plan) -> float:
        """A whole call: layers as the plan has them, all others dense, and what has no weights.

        Raises:
            KeyError, CostTableError: as for `layer_ms`.
        """
        for name in plan:
            self._layer(name)
        return sum(self.layer_ms(name, plan.get(name)) for name in self.layers) + self.rest_ms

    def _layer(self, weight: str) -> LayerCosts:
        if weight not in self.layers:
            raise KeyError(f"{weight!r} is no weight that a call of this network uses; it has {', '.join(self.layers)}")
        return self.layers[weight]

    def to_json(self) -> str:
        """The costs as JSON text, which `costs_from_json` turns back into equal ones."""
        return json.dumps({"format": FORMAT, "version": VERSION, **encoded(self)}, indent=1, allow_nan=False)


def alone(pattern: Pattern) -> Pattern:
    """The pattern as one layer has it: what it competes with decides its density, and this its time."""
    if isinstance(pattern, Block | KernelPattern) and pattern.scope == "network":
        return replace(pattern, scope="layer")
    return replace(pattern, holes=alone(pattern.holes)) if isinstance(pattern, Intersection) else pattern


def costs_from_json(text: str | bytes) -> NetworkCosts:
    """Costs of a network from JSON text.

    Raises:
        CostTableError: the text is something else, damaged, or of a newer version.
    """
    try:
        raw = parse_json(text.encode() if isinstance(text, str) else text)
        if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
            raise CostTableError(f"not the costs of a network (its format is not {FORMAT!r})")
        if (version := raw.pop("version", None)) != VERSION:
            raise CostTableError(f"version {version!r:.40} of the format, expected {VERSION}; update Monstera")
        return decoded(NetworkCosts, raw, "costs")
    except CostTableError:
        raise
    except ValueError as error:
        raise CostTableError(f"not the costs of a network, or damaged: {error}") from error


def curve_of(points: list[Point], dense_ms: float) -> Curve:
    """The curve through measured points and dense, with times that ascend: where they do not, neighbours are pooled.

    Holes that made a layer slower than dense are no worse than dense.
    """
    ordered = sorted((p.density, min(p.ms, dense_ms)) for p in points)
    if ordered[-1][0] < 1:
        ordered.append((1.0, dense_ms))
    return Curve(tuple(d for d, _ in ordered), tuple(ascending([ms for _, ms in ordered])))


def ascending(values: list[float]) -> list[float]:
    """The nearest ascending numbers in least squares (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, size = value, 1
        while pools and pools[-1][0] > mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    return [mean for mean, size in pools for _ in range(size)]
