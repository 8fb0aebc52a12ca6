"""What the evaluation of a scheme gives, and the reward of it under a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from monstera.search.objective import Objective as PlainObjective

# Of twice the budget. Less than `search_plan` takes, as candidates are trained before they are judged.
PENALTY = 0.1


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


@dataclass(frozen=True, slots=True)
class Objective:
    """Accuracy, less what a network costs beyond the budget: `max(V, chance) - slope * max(0, cost - budget)`.

    Attributes:
        budget: milliseconds, or multiply-accumulates, of one call.
        chance: the accuracy of guessing. A network that is pruned to pieces may lie below it by luck alone, and then
            gets no less.
        cost: "ms", or "macs" to see what measuring is worth.
        slope: reward lost for each unit of cost beyond the budget; by default `PENALTY` for as much again.

    Raises:
        ValueError: a budget or slope that is not positive, a chance outside [0, 1), or an unknown cost.

    Source: NPAS (arXiv 2012.00596) has this form; its slope is not known, and this one is ours.

    Example:
        >>> round(Objective(budget=10.0, chance=0.1).reward(Outcome(accuracy=0.9, ms=15.0)), 3)
        0.85
    """

    budget: float
    chance: float
    cost: Literal["ms", "macs"] = "ms"
    slope: float | None = None

    def __post_init__(self) -> None:
        if self.cost not in ("ms", "macs"):
            raise ValueError(f'cost: expected "ms" or "macs", got {self.cost!r}')
        for name, value in (("budget", self.budget), ("slope", 1.0 if self.slope is None else self.slope)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number, got {value}")
        if not 0 <= self.chance < 1:
            raise ValueError(f"chance: expected the accuracy of guessing, in [0, 1), got {self.chance}")

    def cost_of(self, outcome: Outcome) -> float:
        """Milliseconds or multiply-accumulates.

        Raises:
            ValueError: multiply-accumulates are to be counted, and the outcome has none.
        """
        if self.cost == "ms":
            return outcome.ms
        if outcome.macs is None:
            raise ValueError('cost is "macs", but the outcome has none; let the evaluation count them')
        return float(outcome.macs)

    def reward(self, outcome: Outcome) -> float:
        """What the search makes as large as it can."""
        return self._plain.reward(outcome.accuracy, self.cost_of(outcome))

    def feasible(self, outcome: Outcome) -> bool:
        """Whether the network keeps to the budget."""
        return self._plain.feasible(self.cost_of(outcome))

    @property
    def _plain(self) -> PlainObjective:
        """The same of an accuracy and a number; it calls whatever costs milliseconds."""
        penalty = PENALTY if self.slope is None else self.slope * self.budget
        return PlainObjective(self.budget, penalty, self.chance)
