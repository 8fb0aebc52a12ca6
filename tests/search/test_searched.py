"""The result of a search: the best within the budget, the curves, and what is printed."""

from __future__ import annotations

import pytest

from monstera.search.objective import Objective
from monstera.search.searched import SearchResult, Tried
from monstera.sparsity import Plan

ASKED = Objective(2.0, penalty=0.5)


def tried(number: int, accuracy: float, ms: float, same_as: int | None = None) -> Tried:
    plan = Plan({"a.weight": ("4x1", 0.5 / (1 + (number if same_as is None else same_as)))})
    return Tried(number, plan, accuracy, ms, ASKED.reward(accuracy, ms), 1.5, same_as)


TRIALS = (
    tried(0, 0.9, 4.0),
    tried(1, 0.6, 2.0),
    tried(2, 0.8, 1.9),
    tried(3, 0.8, 1.5),
    tried(5, 0.6, 2.0, same_as=1),
    tried(6, 0.95, 2.1),
)
RESULT = SearchResult("study", "tpe", 3, ASKED, 6.0, TRIALS, {"pictures": 2000})


def test_the_best_is_the_most_accurate_within_the_budget_and_of_equal_ones_the_fastest():
    assert RESULT.best == TRIALS[3]
    assert RESULT.plan == TRIALS[3].plan


def test_the_front_is_of_all_trials():
    assert [trial.number for trial in RESULT.front] == [3, 6]
    assert [candidate.source for candidate in RESULT.candidates()] == ["search by tpe"] * 2


def test_curves_are_the_best_so_far():
    assert RESULT.rewards == pytest.approx((0.4, 0.6, 0.8, 0.8, 0.8, 0.925))
    assert RESULT.accuracies == (0.0, 0.6, 0.8, 0.8, 0.8, 0.8)


def test_plans_that_came_again_are_counted_once():
    assert RESULT.evaluations == 5


def test_without_a_trial_within_the_budget_the_fastest_is_named():
    over = SearchResult("study", "rl", 0, Objective(1.0), 6.0, TRIALS)
    assert over.best is None
    with pytest.raises(ValueError, match=r"none of 6 trials is within 1 ms; the fastest, number 3, takes 1\.5"):
        _ = over.plan
    assert "the fastest takes 1.5 ms" in str(over)


def test_it_prints_what_was_asked_and_found():
    text = str(RESULT)
    assert "6 trials by tpe (seed 3), 5 plans evaluated in 9 s" in text
    assert "best: trial 3, accuracy 80.00%, 1.5 ms" in text
    assert "a.weight  4x1 at density 0.125" in text


def test_a_search_without_a_completed_trial_is_refused():
    with pytest.raises(ValueError, match="no completed trial"):
        SearchResult("study", "rl", 0, ASKED, 6.0, ())
