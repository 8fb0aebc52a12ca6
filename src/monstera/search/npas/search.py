"""Phase 2 of NPAS: an agent proposes schemes, a Gaussian process screens them, and the best are evaluated."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console

from monstera.search.npas.display import Show, shown
from monstera.search.npas.gaussian_process import LEAST_POINTS
from monstera.search.npas.journal import Journal, JournalError, Record, opened
from monstera.search.npas.outcome import Cost, Outcome
from monstera.search.npas.q_learning import QLearning, epsilon
from monstera.search.npas.result import Drift, Evaluated, SchemeSearchResult, drift
from monstera.search.npas.scheme import Scheme, SchemeSpace
from monstera.search.npas.screening import screen
from monstera.search.npas.workers import Evaluate, Results, evaluators
from monstera.search.objective import Objective

VERSION = 1
# How many of the best have neighbours.
PARENTS = 5


class SearchError(RuntimeError):
    """A scheme could not be evaluated. What was evaluated before is in the journal."""


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


def search(
    space: SchemeSpace,
    evaluate: Evaluate,
    objective: Objective,
    settings: SearchSettings | None = None,
    *,
    journal: str | os.PathLike[str],
    first: Sequence[Scheme] = (),
    workers: int = 1,
    console: Console | None = None,
) -> SchemeSearchResult:
    """Search a space for the scheme of highest reward.

    Each round the agent draws a pool of schemes that have not been evaluated; a few are evaluated, spread over how much
    they prune as long as there are fewer than `warm_start`, then those of which most improvement is expected; agent and
    process learn from the rewards. No scheme is evaluated twice but the anchors.

    Every outcome is in the journal when the next begins. A search that was killed goes on from it, to the same end as
    if it had not been: schemes that were evaluated are read, not evaluated again, and the agent learns from them anew.
    How many workers there are changes nothing but the order of the journal's lines.

    Args:
        space: what may be chosen.
        evaluate: gives the outcome of a scheme; picklable, if there are several workers. Where it measures
            milliseconds, workers must not disturb each other's.
        objective: what is good, with a budget of what `settings.cost` names.
        settings: how much is searched; `SearchSettings()` by default.
        journal: a file of JSON lines, made if it is not there.
        first: schemes that are evaluated before all others and count as these do, such as those known to be good.
        workers: processes that evaluate at once; with one, this process does. What one of them was doing when it died
            is done again by another.
        console: where progress is shown; nowhere by default.

    Raises:
        JournalError: the journal is damaged, of another search, or in use.
        SchemeError: one of `first` is not of the space.
        SearchError: an evaluation failed, or killed its process again and again.

    Source: NPAS, arXiv 2012.00596, section on scheme search; docs/search/npas.md has what we chose.
    """
    settings = settings or SearchSettings()
    header = {
        "npas": VERSION,
        "space": space.digest,
        "objective": asdict(objective),
        "settings": asdict(settings),
    }
    for scheme in first:
        space.check(scheme)
    if first:
        header["first"] = [scheme.digest for scheme in first]
    with (
        opened(Path(journal), header) as book,
        evaluators(evaluate, workers) as run,
        shown(console, settings.evaluations) as show,
    ):
        state = _State(space, objective, settings, tuple(first), QLearning(space, initial=settings.initial))
        past = _Past.of(book.records)
        while len(state.evaluated) < settings.evaluations and len(state.evaluated) < space.size:
            _round(state, past, book, run, show)
        return SchemeSearchResult(objective, settings.cost, tuple(state.evaluated), tuple(state.drifts))


@dataclass(slots=True)
class _State:
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


@dataclass(frozen=True, slots=True)
class _Past:
    """What a journal knows: records of rounds, and outcomes by round, whether of an anchor, and scheme."""

    rounds: Mapping[int, Record]
    outcomes: Mapping[tuple[int, bool, Scheme], Outcome]

    @classmethod
    def of(cls, records: Iterable[Record]) -> _Past:
        rounds, outcomes = {}, {}
        for record in records:
            if "batch" in record:
                rounds[record["round"]] = record
            else:
                key = record["round"], record["anchor"], Scheme.from_json(record["scheme"])
                outcomes[key] = Outcome(record["accuracy"], record["ms"], record["macs"])
        return cls(rounds, outcomes)


def _round(state: _State, past: _Past, book: Journal, run: Callable[[Sequence[Scheme]], Results], show: Show) -> None:
    record = past.rounds.get(state.round)
    if record is None:
        record = _proposal(state)
        book.append(record)
    elif record["agent"] != state.agent.digest:
        raise JournalError(f"{book.path}: round {state.round} was proposed by an agent that had learnt something else")
    batch = [Scheme.from_json(scheme) for scheme in record["batch"]]
    outcomes = _outcomes(state, past, book, run, batch, False, show)
    for scheme in batch:
        reward = state.reward(outcomes[scheme])
        state.evaluated.append(Evaluated(scheme, outcomes[scheme], reward, state.round))
        state.agent.remember(scheme, reward)
    state.agent.learn(state.rng(1))
    if state.settings.anchors_every and state.round and state.round % state.settings.anchors_every == 0:
        anchors = state.anchors
        again = _outcomes(state, past, book, run, [one.scheme for one in anchors], True, show)
        state.drifts.append(
            drift(state.round, [one.outcome for one in anchors], [again[one.scheme] for one in anchors])
        )
        show.drift(state.drifts[-1])
    state.round += 1


def _outcomes(
    state: _State,
    past: _Past,
    book: Journal,
    run: Callable[[Sequence[Scheme]], Results],
    schemes: Sequence[Scheme],
    anchor: bool,
    show: Show,
) -> dict[Scheme, Outcome]:
    """The outcome of every scheme, read or evaluated now; what succeeds is kept before a failure ends the search."""
    keys = {scheme: (state.round, anchor, scheme) for scheme in schemes}
    known = {scheme: past.outcomes[key] for scheme, key in keys.items() if key in past.outcomes}
    for scheme in () if anchor else known:
        show.outcome(known[scheme], state.reward(known[scheme]))
    failures: list[tuple[Scheme, Exception]] = []
    for scheme, result in run([scheme for scheme in schemes if scheme not in known]):
        if isinstance(result, Exception):
            failures.append((scheme, result))
            continue
        reward = state.reward(result)
        known[scheme] = result
        book.append(_line(state.round, anchor, scheme, result, reward))
        if not anchor:
            show.outcome(result, reward)
    if failures:
        scheme, error = failures[0]
        reason = f"{type(error).__name__}: {error}"
        raise SearchError(
            f"{len(failures)} of {len(schemes)} evaluations failed, the first of scheme {scheme.digest} ({scheme}): "
            f"{reason}; started again with {book.path}, the search goes on from here"
        ) from error
    return known


def _line(round_: int, anchor: bool, scheme: Scheme, outcome: Outcome, reward: float) -> dict[str, Any]:
    return {"round": round_, "anchor": anchor, "scheme": scheme.to_json(), **asdict(outcome), "reward": reward}


# ---- proposing ------------------------------------------------------------------------------------------------------


def _proposal(state: _State) -> dict[str, Any]:
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


def _pool(state: _State, share: float, least: int) -> list[Scheme]:
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


def _neighbours(state: _State, rng: np.random.Generator) -> list[Scheme]:
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
