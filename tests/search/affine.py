"""The cost model of tests, without a machine: time of a layer is affine in density, by a law for each pattern."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from monstera.search import Measured
from monstera.search.masked import Measure
from monstera.sparsity import Entry, Pattern, Plan, pattern, weight_views

# Fixed share of the dense time, and how many times the density costs what it should.
PATTERNS: dict[str, tuple[float, float]] = {
    "2x1": (0.10, 1.3),
    "4x1": (0.05, 1.02),
    "8x1": (0.05, 1.0),
    "16x1": (0.05, 1.0),
    "patterns4of8": (0.2, 2.0),
}
OTHERS = (0.1, 0.9)


@dataclass(frozen=True, slots=True)
class Affine:
    """`Costs` by the number of weights: a layer takes a nanosecond for each, and the rest of a call `rest_ms`."""

    dense: Mapping[str, float]
    rest_ms: float = 0.0
    patterns: Mapping[Pattern, tuple[float, float]] = field(
        default_factory=lambda: {pattern(name): law for name, law in PATTERNS.items()}
    )

    @classmethod
    def of(cls, model: nn.Module, rest_ms: float = 0.0, **laws: tuple[float, float]) -> Affine:
        dense = {name: view.weight.numel() / 1e6 for name, view in weight_views(model).items()}
        return cls(dense, rest_ms, {pattern(name): law for name, law in {**PATTERNS, **laws}.items()})

    @property
    def dense_ms(self) -> float:
        return self.network_ms({})

    @property
    def weights(self) -> tuple[str, ...]:
        return tuple(self.dense)

    def layer_ms(self, weight: str, entry: Entry | None = None) -> float:
        if entry is None:
            return self.dense[weight]
        fixed, factor = self.patterns.get(entry.pattern, OTHERS)
        return self.dense[weight] * (fixed + factor * entry.density)

    def network_ms(self, plan: Mapping[str, Entry] | Plan) -> float:
        return self.rest_ms + sum(self.layer_ms(name, plan.get(name)) for name in self.dense)


def machine(costs: Affine, dense_factor: float = 1.0, factor: float = 1.0) -> Measure:
    """A machine that is slower than predicted, by one factor for the dense network and by another with holes."""
    return lambda plan: Measured(costs.dense_ms * dense_factor, costs.network_ms(plan) * factor)
