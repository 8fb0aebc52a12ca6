"""The front against brute force, and what was decided for each layer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monstera.search.pareto import Pareto, non_dominated, pareto_to_json
from search.example import PARETO

FEW = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5])


def brute_force(points: list[tuple[float, float]]) -> set[int]:
    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one[0] >= other[0] and one[1] <= other[1] and one != other

    return {
        place
        for place, point in enumerate(points)
        if not any(beats(other, point) for other in points) and point not in points[:place]
    }


@given(st.lists(st.tuples(FEW, FEW), max_size=12))
def test_the_front_is_what_brute_force_finds(points):
    front = non_dominated(points)
    assert set(front) == brute_force(points)
    assert [points[place][1] for place in front] == sorted(points[place][1] for place in front)


def test_the_front_leaves_out_what_is_slower_and_less_accurate():
    assert [candidate.accuracy for candidate in PARETO.front] == [0.7, 0.8, 0.85, 0.9]


def test_every_weight_has_its_decision_in_the_order_of_the_layers():
    assert [(row.weight, row.entry) for row in PARETO.layers] == [
        ("a.weight", "4x1 at density 0.25"),
        ("b.weight", "2:4 at density 0.5"),
        ("c.weight", "dense"),
    ]
    assert PARETO.layers[0].dense_ms == 2.0
    assert PARETO.layers[0].ms == pytest.approx(2.0 * (0.05 + 1.02 * 0.25))
    assert PARETO.layers[2].ms == PARETO.layers[2].dense_ms


def test_the_front_is_in_the_file():
    assert pareto_to_json(PARETO)["front"] == [1, 2, 3, 0]


def test_the_chosen_one_is_a_candidate():
    with pytest.raises(ValueError, match="one of them chosen"):
        Pareto("net", "", "", PARETO.candidates, chosen=5)
