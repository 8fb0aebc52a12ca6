from __future__ import annotations

import pickle
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monstera.search import InfeasibleError, allocate

NUMBERS = st.floats(0, 10) | st.integers(0, 10).map(float)
LAYERS = st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4), min_size=1, max_size=5)


def split(layers: list[list[tuple[float, float]]]) -> tuple[list[list[float]], list[list[float]]]:
    return [[cost for cost, _ in layer] for layer in layers], [[loss for _, loss in layer] for layer in layers]


def total(table: list[list[float]], choice: tuple[int, ...]) -> float:
    return sum(layer[i] for layer, i in zip(table, choice, strict=True))


def brute_force(costs: list[list[float]], losses: list[list[float]], budget: float) -> float:
    """The least loss of all choices within the budget, by trying every one."""
    choices = product(*(range(len(layer)) for layer in costs))
    return min((total(losses, c) for c in choices if total(costs, c) <= budget), default=float("inf"))


@given(LAYERS, st.floats(0, 1), st.sampled_from([1, 7, 100, 1 << 14]))
def test_the_choice_keeps_the_budget_and_is_the_best_up_to_its_cells(layers, way: float, cells: int) -> None:
    costs, losses = split(layers)
    least, most = (sum(map(end, costs)) for end in (min, max))
    budget = least + way * (most - least) + 1e-9
    choice = allocate(costs, losses, budget, cells=cells)
    assert total(costs, choice) <= budget + 1e-7
    found = total(losses, choice)
    assert found >= brute_force(costs, losses, budget + 1e-7) - 1e-9
    assert found <= brute_force(costs, losses, budget - len(costs) * (budget - least) / cells) + 1e-9


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), NUMBERS), min_size=1, max_size=4), min_size=1, max_size=5))
def test_whole_costs_in_as_many_cells_are_shared_out_exactly(layers) -> None:
    costs, losses = split(layers)
    costs = [[float(cost - min(layer)) for cost in layer] for layer in costs]
    for budget in (1.0, 5.0, 13.0):
        choice = allocate(costs, losses, budget, cells=int(budget))
        assert total(losses, choice) == pytest.approx(brute_force(costs, losses, budget))


def test_two_layers_by_hand() -> None:
    # Each dense at 4 ms; at half the time the first loses 3, the second 1. Six milliseconds: the second gives way.
    assert allocate([[4, 2], [4, 2]], [[0, 3], [0, 1]], 6) == (0, 1)
    assert allocate([[4, 2], [4, 2]], [[0, 3], [0, 1]], 4) == (1, 1)
    assert allocate([[4, 2], [4, 2]], [[0, 3], [0, 1]], 8) == (0, 0)


def test_a_budget_of_exactly_the_least_takes_the_cheapest_and_of_these_the_best() -> None:
    assert allocate([[1, 1, 5], [0.1, 0.2]], [[3, 2, 0], [1, 0]], 1.1) == (1, 0)


def test_losses_below_zero_are_taken_where_they_fit() -> None:
    assert allocate([[1, 2]], [[0, -1]], 3) == (1,)


def test_too_small_a_budget_is_told_with_the_least() -> None:
    with pytest.raises(InfeasibleError, match="the cheapest choice costs 3, the budget is 2") as caught:
        allocate([[1, 9], [2, 9]], [[0, 0], [0, 0]], 2)
    assert caught.value.least == 3
    assert pickle.loads(pickle.dumps(caught.value)).least == 3


@pytest.mark.parametrize(
    ("costs", "losses", "budget", "message"),
    [
        ([[1.0], []], [[0.0], []], 1.0, "layer 1 has no option"),
        ([[1.0]], [[0.0, 1.0]], 1.0, r"costs have \[1\] options a layer, losses \[2\]"),
        ([[float("nan")]], [[0.0]], 1.0, "must be finite, got nan"),
        ([[1.0]], [[0.0]], float("inf"), "must be finite, got inf"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(costs, losses, budget: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        allocate(costs, losses, budget)
