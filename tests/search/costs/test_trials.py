"""Trials: plans drawn alike by one seed, results that say what their plans say, and the tables made of them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from monstera.measure import this_machine, write_json
from monstera.report.page import results_page
from monstera.report.predictions import plans_table, predictions_table
from monstera.report.sources import read_results
from monstera.search.costs.trials import Trial, Trials, random_plan, read_trials, trials_to_json, write_trials
from monstera.sparsity import pattern
from search.costs.made import small

PLANS = (Trial(1.0, 1.0, 0.5, 1e-7, 0.1), Trial(2.2, 2.0, 0.6, 1e-7, 0.1), Trial(2.4, 3.0, 0.7, 1e-7, 0.1, 1))
TRIALS = Trials(
    network="resnet20",
    inputs=(3, 32, 32),
    threads=1,
    date="2026-01-01",
    machine=this_machine(),
    command="python benchmarks/prediction.py resnet20",
    patterns=("4x1",),
    seed=0,
    law="",
    dense=Trial(4.4, 4.0, 1.0, 1e-7, 0.1),
    plans=PLANS,
)
NAMES = ("0.weight", "2.weight", "4.weight")
PATTERNS = [pattern(name) for name in ("4x1", "2:4", "patterns4of8")]


def test_the_same_seed_draws_the_same_plans():
    model = small()
    plans = [random_plan(model, NAMES, PATTERNS, random.Random(seed)) for seed in (1, 1, 2)]
    assert plans[0].entries == plans[1].entries != plans[2].entries


def test_only_holes_that_fit_are_drawn():
    model, rng = small(), random.Random(0)
    for _ in range(50):
        plan = random_plan(model, NAMES, PATTERNS, rng)
        plan.check(model)
        assert all(0.05 <= entry.density <= 1 for entry in plan.values())
        assert "patterns" not in str(plan["2.weight"])
    assert not random_plan(model, ["2.weight"], PATTERNS[2:], rng)


def test_errors_are_relative_to_what_was_measured():
    assert [trial.miss for trial in PLANS] == pytest.approx([0.0, 0.1, -0.2])
    assert TRIALS.median_error == pytest.approx(0.1)
    assert TRIALS.largest_error == pytest.approx(0.2)
    assert TRIALS.rank_correlation == pytest.approx(1.0)


def test_results_are_read_as_they_were_written(tmp_path):
    write_trials(TRIALS, tmp_path / "a.json")
    assert read_trials(tmp_path / "a.json") == TRIALS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"median_error": 0.01}, "unknown fields"),
        ({"format": "other"}, "format"),
        ({"more": 1}, "unknown"),
        ({"plans": []}, "one plan"),
    ],
)
def test_results_that_do_not_fit_together_are_refused(tmp_path, change, message):
    write_json(trials_to_json(TRIALS) | change, tmp_path / "a.json")
    with pytest.raises(ValueError, match=message):
        read_trials(tmp_path / "a.json")


def test_the_page_of_results_has_a_line_for_each_network(tmp_path):
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    write_trials(TRIALS, folder / "prediction-resnet20-t1.json")
    write_trials(replace(TRIALS, network="c3d"), folder / "prediction-c3d-t1.json")
    page = results_page(read_results(tmp_path), [])
    assert "## Predictions" in page
    assert "10.0%" in page
    assert "benchmarks/results/prediction-c3d-t1.json" in page
    assert len(predictions_table([TRIALS]).lines) == 1


def test_every_plan_has_a_line_behind_that_of_dense():
    table = plans_table(TRIALS)
    assert [line[0] for line in table.lines] == ["dense", "1", "2", "3"]
    assert table.lines[3][-1] == "10% (1 disturbed)"
