"""What a search maximises: accuracy, less what a plan is over its budget of time."""

from __future__ import annotations

from dataclasses import dataclass

# Of twice the budget: the whole accuracy. With less, one-shot projection buys more accuracy over budget than it costs.
PENALTY = 1.0


@dataclass(frozen=True, slots=True)
class Objective:
    """`reward = max(accuracy, chance) - alpha * max(0, ms - latency_ms)`, with `alpha = penalty / latency_ms`.

    Attributes:
        latency_ms: the budget of a call.
        penalty: the reward that twice the budget costs.
        chance: the accuracy of guessing, below which all networks are alike.

    Raises:
        ValueError: a budget that is not positive, a negative penalty, or a chance outside [0, 1).

    Source: Z. Li et al., "NPAS", CVPR 2021, arXiv 2012.00596, equation of the reward; the value of alpha is ours.

    Example:
        >>> Objective(10.0, penalty=0.5).reward(0.9, 12.0)
        0.8
    """

    latency_ms: float
    penalty: float = PENALTY
    chance: float = 0.0

    def __post_init__(self) -> None:
        if not self.latency_ms > 0:
            raise ValueError(f"latency_ms: expected more than 0, got {self.latency_ms}")
        if not self.penalty >= 0:
            raise ValueError(f"penalty: expected 0 or more, got {self.penalty}")
        if not 0 <= self.chance < 1:
            raise ValueError(f"chance: expected an accuracy from 0 to below 1, got {self.chance}")

    @property
    def alpha(self) -> float:
        """The reward that a millisecond over the budget costs."""
        return self.penalty / self.latency_ms

    def reward(self, accuracy: float, ms: float) -> float:
        """The reward of an accuracy in 0..1 and the milliseconds of a call."""
        return max(accuracy, self.chance) - self.alpha * max(0.0, ms - self.latency_ms)

    def feasible(self, ms: float) -> bool:
        """Whether a call is within the budget, forgiving a relative float error of 1e-9."""
        return ms <= self.latency_ms * (1 + 1e-9)
