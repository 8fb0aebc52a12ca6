"""What a search maximises: accuracy, less what a network costs over the budget."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

# Of twice the budget: the whole accuracy. With less, one-shot projection buys more accuracy over budget than it costs.
PENALTY = 1.0


@dataclass(frozen=True, slots=True)
class Objective:
    """`reward = max(accuracy, chance) - alpha * max(0, cost - budget)`, with `alpha = penalty / budget`.

    Attributes:
        budget: of a call, in whatever unit costs are given: milliseconds, multiply-accumulates.
        penalty: the reward that twice the budget costs.
        chance: the accuracy of guessing. A network that is pruned to pieces may lie below it by luck alone, and then
            gets no less.

    Raises:
        ValueError: a budget that is not positive, a negative penalty, or a chance outside [0, 1).

    Source: Z. Li et al., "NPAS", CVPR 2021, arXiv 2012.00596, equation of the reward; the value of alpha is ours.

    Example:
        >>> Objective(10.0, penalty=0.5).reward(0.9, 12.0)
        0.8
    """

    budget: float
    penalty: float = PENALTY
    chance: float = 0.0

    def __post_init__(self) -> None:
        if not (isfinite(self.budget) and self.budget > 0):
            raise ValueError(f"budget: expected a finite number above 0, got {self.budget}")
        if not (isfinite(self.penalty) and self.penalty >= 0):
            raise ValueError(f"penalty: expected a finite number from 0, got {self.penalty}")
        if not 0 <= self.chance < 1:
            raise ValueError(f"chance: expected an accuracy from 0 to below 1, got {self.chance}")

    @property
    def alpha(self) -> float:
        """The reward that a unit of cost over the budget takes."""
        return self.penalty / self.budget

    def reward(self, accuracy: float, cost: float) -> float:
        """The reward of an accuracy in 0..1 and the cost of a call."""
        return max(accuracy, self.chance) - self.alpha * max(0.0, cost - self.budget)

    def feasible(self, cost: float) -> bool:
        """Whether a call is within the budget, forgiving a relative float error of 1e-9."""
        return cost <= self.budget * (1 + 1e-9)
