"""The front against brute force; the file and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monstera.search.pareto import (
    Candidate,
    Pareto,
    layers_of,
    non_dominated,
    pareto_from_json,
    pareto_to_json,
    read_pareto,
    write_pareto,
)
from monstera.sparsity import Plan
from search.synthetic_costs import SyntheticCosts

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


PLAN = Plan({"a.weight": ("4x1", 0.25), "b.weight": ("2:4",)})
DATA = Pareto(
    "net",
    "2000 held-out training pictures",
    "predicted",
    (
        Candidate("dense", Plan(), 0.9, 4.0),
        Candidate("search by rl", PLAN, 0.88, 1.5),
        Candidate("4x1", Plan({"a.weight": ("4x1", 0.25)}), 0.87, 2.0),
    ),
    chosen=1,
    latency_ms=1.6,
    layers=layers_of(PLAN, SyntheticCosts({"a.weight": 2.0, "b.weight": 1.0, "c.weight": 0.5})),
    curves={"rl, seed 0": (0.2, 0.5, 0.5)},
)


def test_the_file_gives_back_what_was_written(tmp_path):
    write_pareto(DATA, tmp_path / "front.json")
    assert read_pareto(tmp_path / "front.json") == DATA
    assert json.loads((tmp_path / "front.json").read_text())["front"] == [1, 0]


def test_the_front_leaves_out_what_is_slower_and_less_accurate():
    assert [candidate.source for candidate in DATA.front] == ["search by rl", "dense"]


def test_every_weight_has_its_decision_in_the_order_of_the_layers():
    assert [(row.weight, row.entry) for row in DATA.layers] == [
        ("a.weight", "4x1 at density 0.25"),
        ("b.weight", "2:4 at density 0.5"),
        ("c.weight", "dense"),
    ]
    assert DATA.layers[0].dense_ms == 2.0
    assert DATA.layers[0].ms == pytest.approx(2.0 * (0.1 + 0.9 * 0.25))
    assert DATA.layers[2].ms == DATA.layers[2].dense_ms


def test_files_of_another_format_and_damaged_ones_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"monstera\.pareto\.1"):
        pareto_from_json({"format": "other"})
    damaged = pareto_to_json(DATA)
    del damaged["curves"]
    with pytest.raises(ValueError, match="incomplete"):
        pareto_from_json(damaged)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json"):
        read_pareto(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="one of them chosen"):
        Pareto("net", "", "", DATA.candidates, chosen=3)
