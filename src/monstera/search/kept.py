"""Weights that are kept, in the place of milliseconds: by it a density is a budget like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from monstera.sparsity import Block, Entry, Plan, WeightView
from monstera.sparsity.selection import kept_groups


@dataclass(frozen=True, slots=True, eq=False)
class KeptWeights:
    """A `Costs` that counts weights: every pattern costs what it keeps, so of all blocks the smallest is chosen.

    Attributes:
        views: the weights that may get holes, by name.
    """

    views: Mapping[str, WeightView]

    @property
    def dense_ms(self) -> float:
        """All of them."""
        return self.network_ms({})

    @property
    def weights(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.views)

    def layer_ms(self, weight: str, entry: Entry | None = None) -> float:
        """How many of one weight are kept.

        Raises:
            KeyError: there is no such weight.
        """
        view = self.views[weight]
        return view.weight.numel() * (1.0 if entry is None else _share(view, entry))

    def network_ms(self, plan: Mapping[str, Entry] | Plan) -> float:
        """How many are kept of all."""
        return sum(self.layer_ms(name, plan.get(name)) for name in self.views)


def _share(view: WeightView, entry: Entry) -> float:
    """Of a weight, by whole groups: few large ones cannot be as sparse as asked."""
    if not isinstance(entry.pattern, Block) or entry.pattern.scope != "layer":
        return entry.density
    groups = entry.pattern.count(view.weight.shape, view.layout)
    return kept_groups(entry.density, groups) / groups
