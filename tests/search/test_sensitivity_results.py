"""The table of decision 0029 is that of its committed file, and the file says what the decision rests on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DECISION = ROOT / "docs" / "decisions" / "0029-plans-by-budget.md"
FOUND = json.loads((ROOT / "recipes" / "search" / "results" / "sensitivity.json").read_text(encoding="utf-8"))
DENSITIES = ("0.5", "0.35", "0.25", "0.125")


@pytest.mark.parametrize("label", FOUND["estimates"])
def test_the_decision_has_the_numbers_of_the_file(label: str) -> None:
    row = FOUND["estimates"][label]
    ranks = f"{row['rank_correlation']:.2f}" if "rank_correlation" in row else ""
    losses = " / ".join(f"{row[density]:.2f}" for density in DENSITIES)
    cells = [*filter(None, (label.replace(", no", " without the").replace(", with", " with a term of"), ranks, losses))]
    lines = [line.strip("| ").split("|") for line in DECISION.read_text(encoding="utf-8").splitlines()]
    assert cells in [[cell.strip() for cell in line if cell.strip()] for line in lines]


@pytest.mark.parametrize("label", ["weights alone", "outputs", "Fisher"])
def test_every_estimate_plans_better_with_its_logarithm_and_than_no_estimate(label: str) -> None:
    rows = FOUND["estimates"]
    assert all(rows[label][d] < min(rows[f"{label}, no logarithm"][d], rows["uniform"][d]) for d in DENSITIES)


def test_the_term_of_first_order_makes_plans_worse_than_without_any_data() -> None:
    rows = FOUND["estimates"]
    first, none = rows["Fisher, with first order"], rows["weights alone"]
    assert first["rank_correlation"] < none["rank_correlation"]
    assert all(first[density] > none[density] for density in DENSITIES)
