"""A search on a cluster: trials are tasks, and the death of a worker loses none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("optuna")
ray = pytest.importorskip("ray")

from monstera.search.mapping import search_plan  # noqa: E402
from monstera.search.study_at import StudyAt  # noqa: E402
from search.judges import ASKED, COSTS, MODEL, SPACE, DiesOnce, quick  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cluster(monkeypatch):
    """Two workers on this machine."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT / 'tests'}")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        num_cpus=2,
        object_store_memory=80 * 1024 * 1024,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_a_worker_killed_in_the_middle_loses_no_trial_and_its_trial_is_run_again(tmp_path):
    judge = DiesOnce(0.3, tmp_path / "log")
    asked = {"space": SPACE, "sampler": "random", "trials": 6, "study": StudyAt(str(tmp_path / "studies.db"))}
    result = search_plan(MODEL, COSTS, judge, ASKED, workers="ray", **asked)
    assert (tmp_path / "log.died").exists()
    assert [trial.number for trial in result.trials] == list(range(6))
    assert all(trial.accuracy == quick(MODEL, trial.plan) for trial in result.trials)
    # One more than there are different plans: that of the worker that died.
    workers = (tmp_path / "log").read_text().split()
    assert len(workers) == result.evaluations + 1
    assert len(set(workers)) >= 2
    # A cluster that was there before is there still.
    assert ray.is_initialized()
