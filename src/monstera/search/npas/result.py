"""What a search has found: everything evaluated, the best of it, and whether measuring has drifted meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from monstera.search.npas.outcome import Cost, Outcome
from monstera.search.npas.scheme import Scheme
from monstera.search.objective import Objective
from monstera.search.pareto import non_dominated


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A scheme, what came of it, and in which round."""

    scheme: Scheme
    outcome: Outcome
    reward: float
    round: int


@dataclass(frozen=True, slots=True)
class Drift:
    """How the anchors, evaluated again after a round, differ from their first evaluation.

    Attributes:
        round: after which they were evaluated.
        accuracy: mean difference, new less first.
        ms: mean ratio, new to first.
    """

    round: int
    accuracy: float
    ms: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """All evaluated schemes, in order, under one objective for one kind of cost; at least one."""

    objective: Objective
    cost: Cost
    evaluated: tuple[Evaluated, ...]
    drifts: tuple[Drift, ...] = ()

    @property
    def best(self) -> Evaluated:
        """The one of highest reward, the first of equals."""
        return max(self.evaluated, key=lambda one: one.reward)

    @property
    def best_feasible(self) -> Evaluated | None:
        """The most accurate within the budget, of equals the cheapest; None if there is none."""
        within = [one for one in self.evaluated if self.objective.feasible(self._cost(one))]
        return max(within, key=lambda one: (one.outcome.accuracy, -self._cost(one)), default=None)

    @property
    def pareto(self) -> tuple[Evaluated, ...]:
        """Those that no other matches in both accuracy and cost and beats in one, from cheap to dear."""
        points = [(one.outcome.accuracy, self._cost(one)) for one in self.evaluated]
        return tuple(self.evaluated[place] for place in non_dominated(points))

    @property
    def curve(self) -> tuple[float, ...]:
        """The best reward after each evaluation."""
        return tuple(accumulate((one.reward for one in self.evaluated), max))

    def _cost(self, one: Evaluated) -> float:
        return one.outcome.cost(self.cost)


def drift(round_: int, first: Sequence[Outcome], again: Sequence[Outcome]) -> Drift:
    """Compare the outcomes of the same schemes, evaluated twice."""
    pairs = list(zip(first, again, strict=True))
    accuracy = sum(new.accuracy - old.accuracy for old, new in pairs) / len(pairs)
    return Drift(round_, accuracy, sum(new.ms / old.ms for old, new in pairs) / len(pairs))
