"""Searches that are kept: they go on after a kill, are shared by processes, and complete exactly what was asked for."""

from __future__ import annotations

import copy
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

optuna = pytest.importorskip("optuna")

from monstera.search.controller import Reinforce  # noqa: E402
from monstera.search.goal import GoalError  # noqa: E402
from monstera.search.mapping import search_plan  # noqa: E402
from monstera.search.objective import Objective  # noqa: E402
from monstera.search.samplers import SAMPLERS  # noqa: E402
from monstera.search.searched import SearchResult  # noqa: E402
from monstera.search.studies import Kept, storage_url  # noqa: E402
from monstera.search.study_at import Signs, StudyAt  # noqa: E402
from monstera.sparsity import Plan  # noqa: E402
from search.judges import ASKED, COSTS, MODEL, SPACE, Dies, DiesOnce, Raises, Slow, quick  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SOON = Signs(every_s=1, grace_s=2)


def study_in(folder: Path, **facts: Any) -> StudyAt:
    return StudyAt(str(folder / "studies.db"), "study", facts, SOON)


def search(folder: Path, evaluate: Any = quick, objective: Objective = ASKED, **given: Any) -> SearchResult:
    asked = {"space": SPACE, "sampler": "random", "trials": 12, "study": study_in(folder), **given}
    return search_plan(MODEL, COSTS, evaluate, objective, **asked)


def states(folder: Path) -> list[str]:
    study = optuna.load_study(study_name="study", storage=storage_url(str(folder / "studies.db")))
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def driver(folder: Path, trials: int, seconds: float, sampler: str = "random", workers: int = 1) -> subprocess.Popen:
    """Another process that runs the same search."""
    code = (
        "from pathlib import Path; from search.judges import Slow; from search.test_studies import search\n"
        "if __name__ == '__main__':\n"
        f"    folder = Path({str(folder)!r})\n"
        f"    search(folder, Slow({seconds}, folder / 'log'), trials={trials}, sampler={sampler!r}, workers={workers})"
    )
    script = folder / "driver.py"
    script.write_text(code)
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    return subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path})


def wait_for(happened: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_a_search_completes_as_many_trials_as_asked_for_and_names_the_best_within_the_budget(tmp_path):
    seen: list[int] = []
    result = search(tmp_path, trials=6, on_trial=lambda trial: seen.append(trial.number))
    assert [trial.number for trial in result.trials] == seen == list(range(6))
    within = [trial for trial in result.trials if trial.ms <= ASKED.budget]
    assert within
    assert result.best is not None
    assert result.best.accuracy == max(trial.accuracy for trial in within)
    assert all(trial.accuracy == quick(MODEL, trial.plan) for trial in result.trials)
    assert all(trial.ms == COSTS.network_ms(trial.plan) for trial in result.trials)


@pytest.mark.parametrize("sampler", ["rl", *(pytest.param(n, marks=pytest.mark.full) for n in SAMPLERS if n != "rl")])
def test_a_search_in_two_goes_is_the_same_as_one_in_one_go(tmp_path, sampler):
    # So many that the policy has learned, TPE has a model, and evolution a second generation.
    trials = 10 if sampler == "rl" else 15
    straight = search(tmp_path / "straight", trials=trials, sampler=sampler)
    search(tmp_path / "halves", trials=9, sampler=sampler)
    halves = search(tmp_path / "halves", trials=trials, sampler=sampler)
    assert [(t.plan, t.reward) for t in halves.trials] == [(t.plan, t.reward) for t in straight.trials]


def test_plans_given_come_first_and_once(tmp_path):
    plan = Plan({"2.weight": ("4x1", 0.25)})
    search(tmp_path, trials=2, first=[plan])
    result = search(tmp_path, trials=4, first=[plan])
    assert [trial.plan == plan for trial in result.trials].count(True) == 1
    assert result.trials[0].plan == plan


def test_a_plan_that_comes_again_is_not_evaluated_again(tmp_path):
    # There are 25 points.
    result = search(tmp_path, Slow(0.0, tmp_path / "log"), trials=14)
    evaluated = len((tmp_path / "log").read_text().split())
    assert evaluated == result.evaluations < 14
    for trial in result.trials:
        first = next(other for other in result.trials if other.plan == trial.plan)
        assert trial.same_as == (None if first is trial else first.number)
    assert len(result.trials) == 14


def test_a_study_of_other_settings_is_refused_with_what_differs(tmp_path):
    search(tmp_path, trials=1)
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        search(tmp_path, trials=1, seed=1)
    with pytest.raises(ValueError, match=r"facts\.pictures was None, now 2000;"):
        search(tmp_path, trials=1, study=study_in(tmp_path, pictures=2000))


def test_a_study_of_other_costs_or_another_network_around_the_weights_is_refused(tmp_path):
    search(tmp_path, trials=1)
    cheaper = replace(COSTS, dense={**COSTS.dense, "2.weight": 0.5 * COSTS.dense["2.weight"]})
    asked = {"space": SPACE, "sampler": "random", "trials": 1, "study": study_in(tmp_path)}
    with pytest.raises(ValueError, match=r"costs\.dense_ms was .*costs\.layers was"):
        search_plan(MODEL, cheaper, quick, ASKED, **asked)
    other = copy.deepcopy(MODEL)
    other[0].bias.data += 1
    with pytest.raises(ValueError, match=r"otherwise: weights was '\w+', now '\w+';"):
        search_plan(other, COSTS, quick, ASKED, **asked)


def test_facts_may_have_tuples(tmp_path):
    study = study_in(tmp_path, mean=(0.5, 0.25))
    search(tmp_path, trials=1, study=study)
    assert len(search(tmp_path, trials=2, study=study).trials) == 2


def test_a_policy_of_other_settings_is_another_search(tmp_path):
    search(tmp_path, trials=1, sampler="rl")
    assert len(search(tmp_path, trials=2, sampler=Reinforce()).trials) == 2
    with pytest.raises(ValueError, match=r"otherwise: reinforce\.batch was 8, now 4;"):
        search(tmp_path, trials=1, sampler=Reinforce(batch=4))


def test_a_study_without_a_name_is_called_by_its_settings(tmp_path):
    unnamed = StudyAt(str(tmp_path / "studies.db"), signs=SOON)
    names = [search(tmp_path, trials=1, study=unnamed, seed=seed).name for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("random-") for name in names)


@pytest.mark.parametrize("wrong", [{"storage": ""}, {"name": ""}, {"facts": {"data": object()}}])
def test_a_place_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=r"a study needs a storage|expected plain values"):
        StudyAt(**wrong)


def test_an_evaluation_that_raises_is_told_and_its_trial_does_not_count(tmp_path):
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        search(tmp_path, Raises(tmp_path / "mended"), trials=3)
    (tmp_path / "mended").touch()
    result = search(tmp_path, Raises(tmp_path / "mended"), trials=3)
    assert len(result.trials) == 3
    assert sorted(states(tmp_path)) == ["COMPLETE"] * 3 + ["FAIL"]


def test_an_accuracy_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="accuracy from 0 to 1, got nan"):
        search(tmp_path, lambda *_: float("nan"), trials=3)


def test_a_killed_search_goes_on_with_no_trial_lost_or_done_twice(tmp_path):
    process = driver(tmp_path, trials=5, seconds=1.0)
    log = tmp_path / "log"
    try:
        # In the middle of the third evaluation.
        wait_for(lambda: log.exists() and len(log.read_text().split()) == 3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    study = optuna.load_study(study_name="study", storage=storage_url(str(tmp_path / "studies.db")))
    before = {trial.number: (trial.params, trial.value) for trial in study.trials if trial.state.name == "COMPLETE"}
    (under_way,) = [trial.params for trial in study.trials if trial.state.name == "RUNNING"]
    result = search(tmp_path, trials=5)
    after = {trial.number: (trial.plan, trial.reward) for trial in result.trials}
    assert states(tmp_path).count("COMPLETE") == len(result.trials) == 5
    assert {"RUNNING", "WAITING"}.isdisjoint(states(tmp_path))
    for number, (params, value) in before.items():
        assert after[number] == (SPACE.plan(SPACE.point_of(params)), value)
    assert len(before) == 2
    assert SPACE.plan(SPACE.point_of(under_way)) in [trial.plan for trial in result.trials]


@pytest.mark.full
def test_two_processes_share_a_study(tmp_path):
    processes = [driver(tmp_path, trials=10, seconds=0.2, sampler="rl") for _ in range(2)]
    try:
        assert [process.wait(timeout=100) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    assert states(tmp_path) == ["COMPLETE"] * 10
    assert len(set((tmp_path / "log").read_text().split())) == 2


def test_who_takes_a_trial_waits_for_others_that_do(tmp_path):
    kept = Kept(storage_url(str(tmp_path / "studies.db")), "study", optuna.samplers.RandomSampler(), {}, SOON)
    with ThreadPoolExecutor() as threads, (tmp_path / "studies.db.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        taken = threads.submit(kept.take, 1)
        time.sleep(0.5)
        assert not taken.done()
        assert not kept.trials()
        fcntl.flock(other, fcntl.LOCK_UN)
        trial = taken.result(timeout=30)
    assert trial is not None
    assert trial.number == 0


@pytest.mark.full
def test_no_trial_is_taken_by_two_processes(tmp_path):
    code = (
        "import sys; from optuna.samplers import RandomSampler; from monstera.search.studies import Kept\n"
        "kept = Kept(sys.argv[1], 'study', RandomSampler(), {})\n"
        "while (trial := kept.take(40)) is not None: print(trial.number, flush=True)"
    )
    command = [sys.executable, "-c", code, storage_url(str(tmp_path / "studies.db"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    taken = [process.communicate(timeout=100)[0].split() for process in processes]
    assert sorted(int(number) for some in taken for number in some) == list(range(40))
    assert states(tmp_path) == ["RUNNING"] * 40


def test_a_worker_that_dies_loses_no_trial(tmp_path):
    result = search(tmp_path, DiesOnce(0.05, tmp_path / "log"), trials=5, workers=2)
    assert (tmp_path / "log.died").exists()
    assert states(tmp_path) == ["COMPLETE"] * 5
    assert all(trial.accuracy == quick(MODEL, trial.plan) for trial in result.trials)


@pytest.mark.full
def test_an_evaluation_that_always_kills_its_worker_is_told(tmp_path):
    from concurrent.futures.process import BrokenProcessPool

    with pytest.raises(BrokenProcessPool):
        search(tmp_path, Dies(0.0, tmp_path / "log"), trials=2, workers=2)
    assert "COMPLETE" not in states(tmp_path)


def test_what_cannot_be_sent_to_other_processes_is_told(tmp_path):
    with pytest.raises(TypeError, match="top of a module"):
        search(tmp_path, lambda *_: 0.5, workers=2)


def test_a_budget_that_no_plan_keeps_is_refused_with_the_least_there_is(tmp_path):
    least = min(COSTS.network_ms(SPACE.plan(point)) for point in itertools.product(range(5), repeat=2))
    with pytest.raises(GoalError, match=f"the fastest plan of the space takes {least:.4g}") as refused:
        search(tmp_path, objective=Objective(0.99 * least))
    assert least <= refused.value.best <= 1.01 * least
    assert search(tmp_path, objective=Objective(least), trials=1).trials


def test_numbers_out_of_bounds_are_refused(tmp_path):
    for wrong in ({"trials": 0}, {"workers": 0}, {"threads": 0}):
        with pytest.raises(ValueError, match="1 or more"):
            search(tmp_path, **wrong)
    with pytest.raises(ValueError, match="known: rl, tpe, evolution, random"):
        search(tmp_path, sampler="luck")
