from __future__ import annotations

import pickle
import re

import pytest

from monstera.search import Goal, GoalError


def test_a_budget_comes_from_each_kind_of_goal() -> None:
    assert Goal(speedup=4).budget(100) == 25
    assert Goal(latency_ms=7).budget(100) == 7
    assert Goal(density=0.3).budget(100) == 30


def test_what_is_reached_is_in_the_unit_of_the_goal() -> None:
    assert Goal(speedup=4).reached(100, 20) == 5
    assert Goal(latency_ms=7).reached(100, 20) == 20
    assert Goal(density=0.3).reached(100, 20) == 0.2
    assert [str(g) for g in (Goal(4), Goal(latency_ms=7.25), Goal(density=0.3))] == [
        "4 times faster than dense",
        "7.25 ms",
        "density 0.3",
    ]


@pytest.mark.parametrize("best", [1.5249, 4.2271, 13.07, 250.9, 1234.5, 0.06251, 5.0])
def test_what_is_said_to_be_within_reach_is_no_more_than_can_be_had(best: float) -> None:
    assert 0.99 * best < Goal(speedup=2).within_reach(best) <= best * (1 + 1e-12)
    for goal in (Goal(latency_ms=1), Goal(density=0.5)):
        assert best * (1 - 1e-12) <= goal.within_reach(best) < 1.01 * best
        shown = re.search(r"[0-9.]+(e\+[0-9]+)?", goal.show(goal.within_reach(best)))
        assert shown
        assert float(shown[0]) == pytest.approx(goal.within_reach(best), rel=1e-9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "one goal, speedup, latency_ms or density; got none of them"),
        ({"speedup": 2, "density": 0.5}, "got speedup=2 and density=0.5"),
        ({"speedup": 1}, "speedup is above 1, got 1"),
        ({"latency_ms": 0}, "latency_ms is above 0, got 0"),
        ({"density": 1.0}, "density is above 0 and below 1, got 1"),
        ({"density": -0.5}, "got -0.5"),
        ({"speedup": float("nan")}, "a finite number, got nan"),
        ({"speedup": "4"}, "a finite number, got '4'"),
    ],
)
def test_goals_that_make_no_sense_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Goal(**wrong)


def test_the_error_carries_the_best_through_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(GoalError("too much", 3.5)))
    assert (str(error), error.best) == ("too much", 3.5)
