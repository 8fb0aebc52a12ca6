"""The search of NPAS: better than without its parts, never twice the same scheme, and the same after being killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from rich.console import Console

from monstera.report.searches import search_panels
from monstera.search import Candidate, Objective
from monstera.search.npas import (
    Evaluated,
    JournalError,
    LayerChoice,
    Outcome,
    Scheme,
    SchemeSearchResult,
    SchemeSpace,
    SearchError,
    SearchSettings,
    Stage,
    search,
)
from monstera.sparsity import Plan
from search.npas_landscape import (
    OBJECTIVE,
    SETTINGS,
    SPACE,
    DyingOnce,
    best_reward,
    evaluate,
    reward,
)

SMALL = replace(SETTINGS, evaluations=22, pool=30, warm_start=10, anchors_every=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[SchemeSearchResult, bytes]:
    """A search that nobody interrupted, and its journal."""
    path = tmp_path_factory.mktemp("npas") / "journal"
    return search(SPACE, evaluate, OBJECTIVE, SMALL, journal=path), path.read_bytes()


def test_screening_finds_better_schemes_than_the_agent_alone_and_than_chance(tmp_path: Path) -> None:
    full, alone, chance = [], [], []
    for seed in range(3):
        settings = replace(SETTINGS, pool=150, seed=seed)
        full.append(search(SPACE, evaluate, OBJECTIVE, settings, journal=tmp_path / f"full{seed}").most_rewarded.reward)
        bare = replace(settings, screening=False)
        alone.append(search(SPACE, evaluate, OBJECTIVE, bare, journal=tmp_path / f"alone{seed}").most_rewarded.reward)
        rng = np.random.default_rng(seed)
        chance.append(max(reward(SPACE.sample(rng)) for _ in range(settings.evaluations)))
    best = best_reward()
    assert max(full) <= best + 1e-9
    # What is left to be had is less by a quarter, and by a half.
    assert best - fmean(full) < (best - fmean(alone)) * 3 / 4
    assert best - fmean(full) < (best - fmean(chance)) / 2


def test_no_scheme_is_evaluated_twice_but_the_anchors(tmp_path: Path) -> None:
    calls: list[Scheme] = []

    def counted(scheme: Scheme) -> Outcome:
        calls.append(scheme)
        return evaluate(scheme)

    result = search(SPACE, counted, OBJECTIVE, SMALL, journal=tmp_path / "journal")
    schemes = [one.scheme for one in result.evaluated]
    assert len(schemes) == len(set(schemes)) == SMALL.evaluations
    repeated = [scheme for scheme in set(calls) if calls.count(scheme) > 1]
    assert len(repeated) == SMALL.anchors
    assert len(calls) == len(schemes) + SMALL.anchors * len(result.drifts)
    assert all(SPACE.refusals(scheme) == [] for scheme in schemes)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 0.31, 0.47, 0.6, 0.75, 0.9, 0.99])
def test_a_search_goes_on_from_any_part_of_its_journal_to_the_same_end(
    whole: tuple[SchemeSearchResult, bytes], tmp_path: Path, share: float
) -> None:
    result, text = whole
    part = text[: int(share * len(text))]
    path = tmp_path / "journal"
    path.write_bytes(part)
    calls: list[Scheme] = []

    def counted(scheme: Scheme) -> Outcome:
        calls.append(scheme)
        return evaluate(scheme)

    again = search(SPACE, counted, OBJECTIVE, SMALL, journal=path)
    assert again == result
    assert path.read_bytes() == text
    assert len(calls) == text.count(b'"accuracy"') - part[: part.rfind(b"\n") + 1].count(b'"accuracy"')


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.full)])
def test_a_killed_search_goes_on_to_the_same_end_and_its_workers_die_with_it(tmp_path: Path, workers: int) -> None:
    here = Path(__file__).resolve()
    paths = os.pathsep.join([str(here.parents[2] / "src"), str(here.parents[1])])
    call = f"search_slowly({str(tmp_path)!r}, {workers})"
    code = f"from search.npas_landscape import search_slowly\nif __name__ == '__main__':\n    {call}\n"
    script, journal = tmp_path / "script.py", tmp_path / "journal"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": paths})
    _wait(lambda: journal.exists() and journal.read_bytes().count(b'"accuracy"') >= 17)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    started = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(started) == workers
    _wait(lambda: not any(map(_alive, started)))
    assert journal.read_bytes().count(b'"accuracy"') < SETTINGS.evaluations
    calls: list[Scheme] = []

    def counted(scheme: Scheme) -> Outcome:
        calls.append(scheme)
        return evaluate(scheme)

    again = search(SPACE, counted, OBJECTIVE, SETTINGS, journal=journal)
    assert len(calls) < SETTINGS.evaluations
    assert again == search(SPACE, evaluate, OBJECTIVE, SETTINGS, journal=tmp_path / "other")


def test_a_worker_that_dies_loses_nothing_and_changes_nothing(
    whole: tuple[SchemeSearchResult, bytes], tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    assert search(SPACE, DyingOnce(journal, 6), OBJECTIVE, SMALL, journal=journal, workers=2) == whole[0]
    assert journal.with_suffix(".died").exists()


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait(until) -> None:
    deadline = time.monotonic() + 120
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_failed_evaluation_is_told_and_what_succeeded_is_kept(tmp_path: Path) -> None:
    calls: list[Scheme] = []

    def failing(scheme: Scheme) -> Outcome:
        calls.append(scheme)
        if len(calls) == 6:
            raise ArithmeticError("no loss")
        return evaluate(scheme)

    journal = tmp_path / "journal"
    with pytest.raises(SearchError, match=r"1 of 4 evaluations failed.*ArithmeticError: no loss"):
        search(SPACE, failing, OBJECTIVE, SMALL, journal=journal)
    # Seven of the first two batches succeeded.
    assert journal.read_bytes().count(b'"accuracy"') == 7


def test_a_journal_of_another_search_or_one_in_use_or_damaged_is_refused(
    whole: tuple[SchemeSearchResult, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    path.write_bytes(whole[1])
    with pytest.raises(JournalError, match="of another search; settings\\.seed was 0, now 1;"):
        search(SPACE, evaluate, OBJECTIVE, replace(SMALL, seed=1), journal=path)
    with pytest.raises(JournalError, match="space was"):
        search(SchemeSpace(SPACE.stages[1:]), evaluate, OBJECTIVE, SMALL, journal=path)
    lines = whole[1].splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"{broken\n", *lines[3:]]))
    with pytest.raises(JournalError, match="line 4 is not JSON"):
        search(SPACE, evaluate, OBJECTIVE, SMALL, journal=path)

    def nested(scheme: Scheme) -> Outcome:
        search(SPACE, evaluate, OBJECTIVE, SMALL, journal=tmp_path / "used")
        return evaluate(scheme)

    with pytest.raises(SearchError, match="another process is searching"):
        search(SPACE, nested, OBJECTIVE, SMALL, journal=tmp_path / "used")


def test_an_agent_that_has_learnt_something_else_is_found_out(
    whole: tuple[SchemeSearchResult, bytes], tmp_path: Path
) -> None:
    records = [json.loads(line) for line in whole[1].splitlines()]
    record = next(record for record in records if "accuracy" in record)
    record["accuracy"] -= 0.001
    path = tmp_path / "journal"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    with pytest.raises(JournalError, match="learnt something else"):
        search(SPACE, evaluate, OBJECTIVE, SMALL, journal=path)


def test_the_warm_start_is_spread_over_what_is_pruned(whole: tuple[SchemeSearchResult, bytes]) -> None:
    kept = [one.scheme.mean_kept for one in whole[0].evaluated if one.round == 0]
    assert kept == sorted(kept)
    assert kept[-1] - kept[0] > 0.25


def test_the_journal_says_what_every_round_was_chosen_by(
    whole: tuple[SchemeSearchResult, bytes], tmp_path: Path
) -> None:
    rounds = [record for line in whole[1].splitlines() if "batch" in (record := json.loads(line))]
    assert [record["by"] for record in rounds] == ["spread"] * 3 + ["expected improvement"] * 3
    assert [len(record["batch"]) for record in rounds] == [4, 4, 2, 4, 4, 4]
    assert [record["epsilon"] for record in rounds[:3]] == [1.0] * 3
    bare = tmp_path / "journal"
    search(SPACE, evaluate, OBJECTIVE, replace(SMALL, screening=False), journal=bare)
    assert b"expected improvement" not in bare.read_bytes()


def test_drift_of_the_anchors_is_reported(tmp_path: Path) -> None:
    calls = 0

    def slowing(scheme: Scheme) -> Outcome:
        nonlocal calls
        calls += 1
        outcome = evaluate(scheme)
        return replace(outcome, ms=outcome.ms * 2, accuracy=outcome.accuracy - 0.01) if calls > 4 else outcome

    result = search(SPACE, slowing, OBJECTIVE, SMALL, journal=tmp_path / "journal")
    assert [drift.round for drift in result.drifts] == [2, 4]
    assert all(drift.ms == pytest.approx(2) and drift.accuracy == pytest.approx(-0.01) for drift in result.drifts)


def test_a_space_smaller_than_the_search_is_evaluated_whole(tmp_path: Path) -> None:
    space = SchemeSpace([Stage(name, 16, 16, "1x1", patterns=["8x4"], densities=[0.5]) for name in "ab"])
    settings = SearchSettings(evaluations=50, pool=5, warm_start=10, seed=3)
    result = search(space, lambda _: Outcome(0.5, 1.0), OBJECTIVE, settings, journal=tmp_path / "journal")
    assert len({one.scheme for one in result.evaluated}) == len(result.evaluated) == space.size == 9


def test_progress_is_told_line_by_line_where_there_is_no_terminal(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        console = Console(file=file, width=100)
        search(SPACE, evaluate, OBJECTIVE, SMALL, journal=tmp_path / "journal", console=console)
    lines = (tmp_path / "log").read_text().splitlines()
    assert sum(line.startswith("scheme ") for line in lines) == SMALL.evaluations
    assert sum(line.startswith("anchors after round") for line in lines) == 2


# ---- outcomes and results -------------------------------------------------------------------------------------------


def test_macs_can_be_the_cost_and_must_then_be_counted(tmp_path: Path) -> None:
    counting = replace(SMALL, evaluations=4, cost="macs")
    # Schemes of the landscape have 1000 of them, all of ten times the budget.
    result = search(SPACE, evaluate, Objective(100.0, penalty=0.01), counting, journal=tmp_path / "counted")
    assert [one.reward for one in result.evaluated] == pytest.approx(
        [one.outcome.accuracy - 0.09 for one in result.evaluated]
    )
    assert result.best is None
    with pytest.raises(ValueError, match="let the evaluation count them"):
        search(SPACE, lambda _: Outcome(0.9, 5.0), OBJECTIVE, counting, journal=tmp_path / "uncounted")


@pytest.mark.parametrize(
    "wrong", [{"accuracy": math.nan, "ms": 1}, {"accuracy": 0.5, "ms": 0}, {"accuracy": 50, "ms": 1}]
)
def test_an_outcome_that_is_none_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        Outcome(**wrong)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"pool": 3}, {"warm_start": 9}, {"seed": -1}, {"cost": "seconds"}])
def test_settings_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"expected|pool|process"):
        SearchSettings(**wrong)


def _result(*pairs: tuple[float, float]) -> SchemeSearchResult:
    objective = Objective(budget=2.0, penalty=0.1, chance=0.1)
    schemes = [Scheme((LayerChoice("1x1", "8x4", 1 / (n + 2)),)) for n in range(len(pairs))]
    outcomes = [Outcome(*pair) for pair in pairs]
    rewards = [objective.reward(*pair) for pair in pairs]
    evaluated = [Evaluated(*one, 0) for one in zip(schemes, outcomes, rewards, strict=True)]
    return SchemeSearchResult(objective, "ms", tuple(evaluated))


def test_the_front_has_what_nothing_else_beats() -> None:
    result = _result((0.5, 1.0), (0.7, 2.0), (0.6, 2.0), (0.7, 3.0), (0.4, 0.5), (0.5, 1.5))
    assert [(one.outcome.accuracy, one.outcome.ms) for one in result.front] == [(0.4, 0.5), (0.5, 1.0), (0.7, 2.0)]


def test_the_front_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        result = _result(*((float(a) / 4, float(t) + 1) for a, t in rng.integers(5, size=(12, 2))))
        pairs = {(one.outcome.accuracy, one.outcome.ms) for one in result.evaluated}
        front = {p for p in pairs if not any(q != p and q[0] >= p[0] and q[1] <= p[1] for q in pairs)}
        assert {(one.outcome.accuracy, one.outcome.ms) for one in result.front} == front
        assert len(result.front) == len(front)


def test_what_can_be_had_is_drawn_like_that_of_any_search() -> None:
    space = SchemeSpace([Stage(n, 16, 16, "1x1", patterns=["8x4", "4x1"], densities=[0.5, 0.25]) for n in "ab"])
    choices = [LayerChoice("1x1", "8x4", 0.5), LayerChoice("1x1", "4x1", 0.25), LayerChoice("1x1")]
    schemes = [Scheme((choices[0], choices[0])), Scheme((choices[1], choices[2])), Scheme((choices[2], choices[2]))]
    outcomes = [Outcome(0.6, 1.5), Outcome(0.7, 1.0), Outcome(0.8, 3.0)]
    rewards = (0.6, 0.7, 0.75)
    evaluated = tuple(Evaluated(*one, 0) for one in zip(schemes, outcomes, rewards, strict=True))
    pareto = SchemeSearchResult(Objective(2.0), "ms", evaluated).pareto("net", space)
    holes = Plan({"a.weight": ("4x1", 0.25)})
    assert pareto.candidates == (
        Candidate("search by npas", holes, 0.7, 1.0),
        Candidate("search by npas", Plan(), 0.8, 3.0),
        Candidate("uniform", Plan({"a.weight": ("8x4", 0.5), "b.weight": ("8x4", 0.5)}), 0.6, 1.5),
    )
    assert pareto.chosen == 0
    panels = search_panels(pareto)
    assert panels["front"].series == {"search by npas": {1.0: 0.7, 3.0: 0.8}, "uniform": {1.5: 0.6}}
    assert panels["curves"].series == {"npas": {1: 0.6, 2: 0.7, 3: 0.75}}


def test_the_best_within_the_budget_is_no_other() -> None:
    result = _result((0.9, 4.0), (0.7, 2.0), (0.7, 1.0), (0.6, 0.5))
    assert result.most_rewarded.outcome.ms == 4.0
    assert result.best is not None
    assert result.best.outcome == Outcome(0.7, 1.0)
    assert result.rewards == pytest.approx((0.8, 0.8, 0.8, 0.8))
    assert _result((0.9, 4.0)).best is None
