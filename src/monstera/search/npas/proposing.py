"""What is evaluated next in a search of NPAS: what is known so far, the pool drawn from it, and the batch chosen."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import numpy as np

from monstera.search.npas.gaussian_process import LEAST_POINTS
from monstera.search.npas.outcome import Cost, Outcome
from monstera.search.npas.q_learning import QLearning, epsilon
from monstera.search.npas.result import Drift, Evaluated
from monstera.search.npas.scheme import Scheme
from monstera.search.npas.screening import screen
from monstera.search.npas.space import SchemeSpace
from monstera.search.objective import Objective

# How many of the best have neighbours.
PARENTS = 5


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How much is searched, and how.

    Attributes:
        evaluations: how many schemes are evaluated; anchors come on top.
        cost: what the budget is of: "ms", or "macs" to see what measuring is worth.
        batch: schemes evaluated in a round, between which nothing is learnt.
        pool: schemes that the agent draws for a round, among which it is chosen.
        neighbours: so many more in the pool: one of the best that were evaluated, with one or two layers changed.
        warm_start: schemes evaluated before anything is screened, spread over how much they prune.
        screening: False evaluates the first of the pool instead: what Bayesian screening is worth.
        anchors: how many of the best of the first round are evaluated again, to see whether outcomes drift.
        anchors_every: rounds between that; 0 never does it.
        initial: the reward that the agent expects of what it does not know, slightly below an average network's.
        seed: of all that is drawn.

    Raises:
        ValueError: a count that is not positive, or a warm start too short for screening.
    """

    evaluations: int = 60
    cost: Cost = "ms"
    batch: int = 4
    pool: int = 200
    neighbours: int = 0
    warm_start: int = 12
    screening: bool = True
    anchors: int = 2
    anchors_every: int = 5
    initial: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cost not in get_args(Cost):
            raise ValueError(f'cost: expected "ms" or "macs", got {self.cost!r}')
        counts = {name: getattr(self, name) for name in ("evaluations", "batch", "pool", "anchors")}
        if wrong := [f"{name} is {count}" for name, count in counts.items() if count < 1]:
            raise ValueError(f"expected positive counts, but {', '.join(wrong)}")
        if min(self.anchors_every, self.seed, self.neighbours) < 0:
            raise ValueError(
                "expected anchors_every, seed and neighbours >= 0, got "
                f"{self.anchors_every}, {self.seed} and {self.neighbours}"
            )
        if self.pool < self.batch:
            raise ValueError(f"a pool of {self.pool} has no batch of {self.batch} to choose")
        if self.warm_start < (LEAST_POINTS if self.screening else 0):
            raise ValueError(f"warm_start: a process needs {LEAST_POINTS} schemes to learn from, got {self.warm_start}")


@dataclass(slots=True)
class State:
    """What a search knows after its last whole round."""

    space: SchemeSpace
    objective: Objective
    settings: SearchSettings
    first: tuple[Scheme, ...]
    agent: QLearning
    evaluated: list[Evaluated] = field(default_factory=list)
    drifts: list[Drift] = field(default_factory=list)
    round: int = 0

    def reward(self, outcome: Outcome) -> float:
        """What an outcome is worth."""
        return self.objective.reward(outcome.accuracy, outcome.cost(self.settings.cost))

    def rng(self, purpose: int) -> np.random.Generator:
        """Made anew for every round and purpose, so that no generator's state has to be kept."""
        return np.random.default_rng([self.settings.seed, self.round, purpose])

    @property
    def anchors(self) -> list[Evaluated]:
        """The best of the first round: those pruned to pieces would not show a drift."""
        first = [one for one in self.evaluated if one.round == 0]
        return sorted(first, key=lambda one: -one.reward)[: self.settings.anchors]


def proposal(state: State) -> dict[str, Any]:
    """The batch of a round, and all that it was chosen by."""
    settings, done = state.settings, len(state.evaluated)
    count = min(settings.batch, settings.evaluations - done)
    share = epsilon(done, settings.evaluations)
    record = {"round": state.round, "epsilon": share, "agent": state.agent.digest}
    seen = {one.scheme for one in state.evaluated}
    if given := [scheme for scheme in dict.fromkeys(state.first) if scheme not in seen][:count]:
        return {**record, "by": "given", "batch": [scheme.to_json() for scheme in given]}
    pool = _pool(state, share, count)
    if done < settings.warm_start:
        batch = _spread(pool, min(count, settings.warm_start - done))
        return {**record, "by": "spread", "batch": [scheme.to_json() for scheme in batch]}
    if not settings.screening:
        return {**record, "by": "agent", "batch": [scheme.to_json() for scheme in pool[:count]]}
    screened = screen(state.space, pool, [(one.scheme, one.reward) for one in state.evaluated], count)
    chosen = asdict(screened) | {"batch": [scheme.to_json() for scheme in screened.schemes]}
    del chosen["schemes"]
    return {**record, "by": "expected improvement", **chosen}


def _pool(state: State, share: float, least: int) -> list[Scheme]:
    """What the agent draws and nobody has evaluated, once each, and neighbours; filled up where too little is new."""
    rng, size = state.rng(0), state.settings.pool
    seen = {one.scheme for one in state.evaluated}
    drawn = dict.fromkeys([*(state.agent.sample(share, rng) for _ in range(size)), *_neighbours(state, rng)])
    pool = [scheme for scheme in drawn if scheme not in seen]
    if len(pool) < least:
        pool += [s for s in dict.fromkeys(state.space.sample(rng) for _ in range(size)) if s not in {*pool, *seen}]
    if len(pool) < least:
        everything = (Scheme(choices) for choices in itertools.product(*state.space.actions))
        unseen = (scheme for scheme in everything if scheme not in {*pool, *seen})
        pool += list(itertools.islice(unseen, least - len(pool)))
    return pool


def _neighbours(state: State, rng: np.random.Generator) -> list[Scheme]:
    """The best schemes with one or two layers changed; none before there are any."""
    best = sorted(state.evaluated, key=lambda one: -one.reward)[:PARENTS]
    made = []
    for _ in range(state.settings.neighbours if best else 0):
        choices = [*best[int(rng.integers(len(best)))].scheme.choices]
        for layer in rng.permutation(len(choices))[: int(rng.integers(1, 3))]:
            actions = state.space.actions[layer]
            choices[layer] = actions[int(rng.integers(len(actions)))]
        made.append(Scheme(tuple(choices)))
    return made


def _spread(pool: Sequence[Scheme], count: int) -> list[Scheme]:
    """Schemes whose mean densities lie evenly between the least and the greatest of the pool."""
    left = sorted(pool, key=lambda scheme: (scheme.mean_kept, scheme.digest))
    least, most = left[0].mean_kept, left[-1].mean_kept
    batch = []
    for number in range(min(count, len(left))):
        wanted = least + (most - least) * (number + 0.5) / count
        batch.append(min(left, key=lambda scheme: abs(scheme.mean_kept - wanted)))
        left.remove(batch[-1])
    return batch
