"""Phase 2 of NPAS: an agent proposes schemes, a Gaussian process screens them, and the best are evaluated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from monstera.search.npas.display import Show, shown
from monstera.search.npas.journal import Journal, JournalError, Record, opened
from monstera.search.npas.outcome import Outcome
from monstera.search.npas.proposing import SearchSettings, State, proposal
from monstera.search.npas.q_learning import QLearning
from monstera.search.npas.result import Evaluated, SchemeSearchResult, drift
from monstera.search.npas.scheme import Scheme
from monstera.search.npas.space import SchemeSpace
from monstera.search.npas.workers import Evaluate, Results, evaluators
from monstera.search.objective import Objective

VERSION = 1


class SearchError(RuntimeError):
    """A scheme could not be evaluated. What was evaluated before is in the journal."""


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
        state = State(space, objective, settings, tuple(first), QLearning(space, initial=settings.initial))
        past = _Past.of(book.records)
        while len(state.evaluated) < settings.evaluations and len(state.evaluated) < space.size:
            _round(state, past, book, run, show)
        return SchemeSearchResult(objective, settings.cost, tuple(state.evaluated), tuple(state.drifts))


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


def _round(state: State, past: _Past, book: Journal, run: Callable[[Sequence[Scheme]], Results], show: Show) -> None:
    record = past.rounds.get(state.round)
    if record is None:
        record = proposal(state)
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
    state: State,
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
