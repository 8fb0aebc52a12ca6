"""Searches in the report: the best of each source, fronts and curves."""

from pathlib import Path

import pytest

from monstera.report import figures, read_results
from monstera.report.page import results_page
from monstera.report.searches import search_panels, search_table
from monstera.search import write_pareto
from search.example import PARETO


def test_every_source_has_its_best_within_the_budget_and_the_chosen_one_stands_out():
    table = search_table(PARETO)
    assert "at most 2.00 ms" in table.title
    assert table.lines == (
        ("dense", "1", "none within the budget", "6.00", ""),
        ("**search by rl**", "3", "80.00%", "2.00", "2"),
        ("rules", "1", "65.00%", "1.90", "1"),
    )


def test_figures_are_fronts_by_time_and_rewards_by_trial():
    panels = search_panels(PARETO)
    assert panels["front"].series["search by rl"] == {1.5: 0.7, 2.0: 0.8, 2.5: 0.85}
    assert list(panels["front"].series["search by rl"]) == [1.5, 2.0, 2.5]
    assert panels["curves"].series == {"rl, seed 0": {1: 0.4, 2: 0.5, 3: 0.5}}


def test_committed_fronts_are_on_the_page_with_their_figures_and_their_source(tmp_path: Path):
    pytest.importorskip("matplotlib")
    write_pareto(PARETO, tmp_path / "recipes" / "search" / "found" / "net.pareto.json")
    results = read_results(tmp_path)
    drawn = figures(results)
    assert list(drawn) == ["net-front.svg", "net-curves.svg"]
    page = results_page(results, drawn)
    assert "## Searches" in page
    assert "![net-front](figures/net-front.svg)" in page
    assert "[`recipes/search/found/net.pareto.json`](../recipes/search/found/net.pareto.json)" in page
    assert results.study_folders == ()
