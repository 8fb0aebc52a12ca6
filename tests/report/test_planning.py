"""The table of plans by budget, from points made by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from monstera.measure import Macs, Point, Timing, write_study
from monstera.report import planning_table, read_results, results_page
from report.example import STUDY


def point(line: str, at: str, ms: float, **facts: float | str) -> Point:
    return Point("net", line, at, Macs(4, 2), 1e-7, Timing((ms, ms, 1.1 * ms), ms, 9), facts=facts)


DENSE = point("dense", "dense", 8.0)
FAST = point(
    "no table", "4 times faster", 2.1, kind="speedup", asked=4.0, predicted=4.0, measured=3.9, tries=2, seconds=71.4
)
SHORT = point("table", "3 ms", 2.94, kind="latency_ms", asked=3.0, predicted=2.99, measured=3.02, tries=1, seconds=9.6)
PLANS = replace(STUDY, name="planning", subject="net", points=(DENSE, FAST, SHORT))


def test_each_plan_has_what_was_asked_predicted_and_reached():
    table = planning_table(PLANS)
    assert table.title == "net, 1 thread: plans by budget"
    speedup, latency = table.lines
    assert speedup == ("4 times faster", "no", "4.00x", "3.90x", "3.81x", "+5.0%", "10%", "2", "71")
    assert latency == ("3 ms", "yes", "2.99", "3.02", "2.94", "-2.0%", "10%", "1", "10")


def test_the_page_of_results_shows_the_table_and_its_file(tmp_path: Path):
    assert "Plans by budget" not in results_page(read_results(tmp_path), [])
    write_study(PLANS, tmp_path / "benchmarks" / "results" / "planning-net-t1.json")
    page = results_page(read_results(tmp_path), [])
    assert "## Plans by budget\n" in page
    assert "| 3 ms | yes | 2.99 | 3.02 | 2.94 | -2.0% | 10% | 1 | 10 |" in page
    assert "[`benchmarks/results/planning-net-t1.json`](../benchmarks/results/planning-net-t1.json)" in page


@pytest.mark.parametrize("points", [(FAST,), (DENSE,)])
def test_a_study_without_a_dense_network_or_without_plans_is_refused(points: tuple[Point, ...]):
    with pytest.raises(ValueError, match="expected a timed dense network and plans beside it"):
        planning_table(replace(PLANS, points=points))
