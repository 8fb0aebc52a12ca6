"""Weights that are kept, in the place of milliseconds: by it a density is a budget like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from monstera.sparsity import Entry, Plan


@dataclass(frozen=True, slots=True)
class KeptWeights:
    """A `Costs` that counts weights: every pattern costs its density, so of all blocks the smallest is chosen.

    Attributes:
        sizes: how many weights there are by name, of those that may get holes.
    """

    sizes: Mapping[str, int]

    @property
    def dense_ms(self) -> float:
        """All of them."""
        return float(sum(self.sizes.values()))

    @property
    def weights(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.sizes)

    def layer_ms(self, weight: str, entry: Entry | None = None) -> float:
        """How many of one weight are kept.

        Raises:
            KeyError: there is no such weight.
        """
        return self.sizes[weight] * (1.0 if entry is None else entry.density)

    def network_ms(self, plan: Mapping[str, Entry] | Plan) -> float:
        """How many are kept of all."""
        return sum(self.layer_ms(name, plan.get(name)) for name in self.sizes)
