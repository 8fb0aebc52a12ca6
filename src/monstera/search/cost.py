"""What rules and searches ask of a cost model: milliseconds of a layer, and of a network, under a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from monstera.sparsity import Plan
from monstera.sparsity.entry import Entry


class Costs(Protocol):
    """Predicted milliseconds of one call of one network on one machine, without compiling anything."""

    @property
    def dense_ms(self) -> float:
        """A call of the network without holes, by our own engine."""
        ...

    @property
    def weights(self) -> tuple[str, ...]:
        """The parameters that plans can name, in the order in which their layers run."""
        ...

    def layer_ms(self, weight: str, entry: Entry | None = None) -> float:
        """All uses of one weight in a call, with the holes of `entry` or dense.

        Raises:
            KeyError: the network has no such weight.
        """
        ...

    def network_ms(self, plan: Mapping[str, Entry] | Plan) -> float:
        """A whole call: layers as the plan has them, all others dense, and what has no weights."""
        ...
