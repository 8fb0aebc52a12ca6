"""What the evaluation of a scheme gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

# What a budget is of: milliseconds, or multiply-accumulates, to see what measuring is worth.
Cost: TypeAlias = Literal["ms", "macs"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one scheme.

    Attributes:
        accuracy: on held-out data after fast evaluation, from 0 to 1.
        ms: measured milliseconds of one call of the compiled network.
        macs: multiply-accumulates of one call, where the search is to count these.

    Raises:
        ValueError: an accuracy outside [0, 1], or a cost that is not positive and finite.
    """

    accuracy: float
    ms: float
    macs: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1:
            raise ValueError(f"accuracy: expected a fraction from 0 to 1, got {self.accuracy}")
        if not (math.isfinite(self.ms) and self.ms > 0):
            raise ValueError(f"ms: expected positive milliseconds, got {self.ms}")
        if self.macs is not None and self.macs < 0:
            raise ValueError(f"macs: expected a count, got {self.macs}")

    def cost(self, of: Cost) -> float:
        """Milliseconds or multiply-accumulates of one call.

        Raises:
            ValueError: multiply-accumulates are asked for, and were not counted.
        """
        if of == "ms":
            return self.ms
        if self.macs is None:
            raise ValueError('cost is "macs", but the outcome has none; let the evaluation count them')
        return float(self.macs)
