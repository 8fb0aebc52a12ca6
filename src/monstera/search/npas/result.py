"""What a search has found: everything evaluated, the best of it, and whether measuring has drifted meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from monstera.search.npas.base import uniform_schemes
from monstera.search.npas.candidate import scheme_plan
from monstera.search.npas.outcome import Cost, Outcome
from monstera.search.npas.scheme import Scheme
from monstera.search.npas.space import SchemeSpace
from monstera.search.objective import Objective
from monstera.search.pareto import Candidate, Pareto, non_dominated


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
class SchemeSearchResult:
    """All evaluated schemes, in order, under one objective for one kind of cost; at least one."""

    objective: Objective
    cost: Cost
    evaluated: tuple[Evaluated, ...]
    drifts: tuple[Drift, ...] = ()

    @property
    def best(self) -> Evaluated | None:
        """The most accurate within the budget, of equals the cheapest; None if there is none."""
        within = [one for one in self.evaluated if self.objective.feasible(self._cost(one))]
        return max(within, key=lambda one: (one.outcome.accuracy, -self._cost(one)), default=None)

    @property
    def most_rewarded(self) -> Evaluated:
        """The one of highest reward, the first of equals."""
        return max(self.evaluated, key=lambda one: one.reward)

    @property
    def chosen(self) -> Evaluated:
        """The best or, where none is within the budget, the one of highest reward."""
        return self.best or self.most_rewarded

    @property
    def front(self) -> tuple[Evaluated, ...]:
        """Those that no other matches in both accuracy and cost and beats in one, from cheap to dear."""
        points = [(one.outcome.accuracy, self._cost(one)) for one in self.evaluated]
        return tuple(self.evaluated[place] for place in non_dominated(points))

    @property
    def rewards(self) -> tuple[float, ...]:
        """The best reward after each evaluation."""
        return tuple(accumulate((one.reward for one in self.evaluated), max))

    def pareto(self, network: str, space: SchemeSpace, threads: int = 1) -> Pareto:
        """The front, the base network pruned alike everywhere, and the chosen one, as all searches show them.

        Args:
            network: name of the base network.
            space: that was searched.
            threads: that a call was measured with.
        """
        alike = {*uniform_schemes(space)}
        shown = dict.fromkeys([*self.front, self.chosen, *(one for one in self.evaluated if one.scheme in alike)])
        return Pareto(
            network=network,
            accuracy_of="held-out training pictures, after fast evaluation",
            ms_of=f"measured, {threads} thread{'s' * (threads != 1)}",
            candidates=tuple(
                Candidate(
                    "uniform" if one.scheme in alike else "search by npas",
                    scheme_plan(space, one.scheme),
                    one.outcome.accuracy,
                    one.outcome.ms,
                )
                for one in shown
            ),
            chosen=[*shown].index(self.chosen),
            latency_ms=self.objective.budget if self.cost == "ms" else None,
            curves={"npas": self.rewards},
        )

    def _cost(self, one: Evaluated) -> float:
        return one.outcome.cost(self.cost)


def drift(round_: int, first: Sequence[Outcome], again: Sequence[Outcome]) -> Drift:
    """Compare the outcomes of the same schemes, evaluated twice."""
    pairs = list(zip(first, again, strict=True))
    accuracy = sum(new.accuracy - old.accuracy for old, new in pairs) / len(pairs)
    return Drift(round_, accuracy, sum(new.ms / old.ms for old, new in pairs) / len(pairs))
