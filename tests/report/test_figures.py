"""Figures: which there are, that they show the numbers, and that they are the same every time."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from monstera.measure import Macs, Point, Timing, write, write_study
from monstera.report import figures, read_results
from monstera.report.drawing import Panel
from monstera.report.drawing import _bars as draw_bars
from monstera.report.figures import _panels
from report.example import COMPARISON, STUDY


def timed(sweep: str, line: str, at: str | float, ms: float, threads: int = 1) -> Point:
    return Point(sweep, line, at, Macs(10**8, 10**8), 1e-6, Timing((ms, ms, ms), ms, 30), threads=threads)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    results = tmp_path / "benchmarks" / "results"
    write(COMPARISON, results / "resnet50.json")
    write_study(STUDY, results / "scaling-resnet50.json")
    return tmp_path


def test_every_kind_of_result_has_its_figures(root: Path):
    drawn = figures(read_results(root))
    assert list(drawn) == ["networks-t1.svg", "scaling-resnet50-density.svg", "scaling-resnet50-batch.svg"]
    assert all(data.startswith(b"<?xml") and b"</svg>" in data for data in drawn.values())


def test_a_figure_names_its_source_and_has_the_same_bytes_in_another_process(root: Path):
    drawn = figures(read_results(root))["scaling-resnet50-density.svg"]
    assert b"benchmarks/results/scaling-resnet50.json" in drawn
    assert b">4x1</text>" in drawn
    code = (
        "import sys; from pathlib import Path; from monstera.report import figures, read_results\n"
        "sys.stdout.buffer.write(figures(read_results(Path(sys.argv[1])))['scaling-resnet50-density.svg'])"
    )
    again = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, check=True)
    assert again.stdout == drawn


def test_a_figure_changes_with_its_numbers(root: Path):
    before = figures(read_results(root))
    slower = (replace(STUDY.points[0], timing=Timing((3.0, 3.0, 3.0), 2.9, 30)), *STUDY.points[1:])
    write_study(replace(STUDY, points=slower), root / "benchmarks" / "results" / "scaling-resnet50.json")
    after = figures(read_results(root))
    assert after["scaling-resnet50-density.svg"] != before["scaling-resnet50-density.svg"]
    assert after["networks-t1.svg"] == before["networks-t1.svg"]


def test_a_batch_is_shown_by_the_input_and_threads_by_what_they_gain():
    points = (timed("threads", "dense", 1, 4.0), timed("threads", "dense", 2, 2.5, threads=2))
    panels = _panels(replace(STUDY, points=STUDY.points + points))
    assert panels["batch"][0].series["dense"] == {1: 2.0, 4: 1.5}
    assert panels["threads"][0].series == {"dense": {1: 1.0, 2: 1.6}}
    assert panels["threads"][0].dashed == {"as many times": {1: 1.0, 2: 2.0}}


def test_kernels_are_drawn_plane_by_plane_and_patterns_as_bars():
    points = (
        timed("spmm 56x56", "4 rows", 8, 4.0),
        timed("spmm 7x7", "4 rows", 8, 2.0),
        timed("spmv 64x64", "16 rows", 8, 8.0),
        timed("patterns", "density 0.5", "2:4", 5.0),
    )
    panels = _panels(replace(STUDY, name="kernels", points=points))
    assert {name: len(found) for name, found in panels.items()} == {"spmm": 2, "spmv": 1, "patterns": 1}
    # 2 x 10^8 operations take 2 ms at 100 GFLOP/s.
    assert panels["spmm"][0].series == {"4 rows": {8: pytest.approx(0.5)}}
    assert panels["patterns"][0].series == {"density 0.5": {"2:4": 5.0}}


def test_stages_that_were_not_measured_are_left_out_of_the_bars():
    points = (
        Point("resnet50", "as pruned", "CSR", Macs(2, 1), note="none"),
        timed("resnet50", "as pruned", "all", 3.0),
    )
    (panel,) = _panels(replace(STUDY, name="ablation", points=points))["stages"]
    assert panel.series == {"as pruned": {"all": 3.0}}


def test_a_study_that_nobody_can_draw_is_refused():
    with pytest.raises(ValueError, match="nobody shows a study called 'colours'"):
        _panels(replace(STUDY, name="colours"))


def test_bars_of_one_place_stand_side_by_side_around_it():
    axes = Figure().add_subplot()
    draw_bars(axes, Panel("t", "", "ms", {"a": {"x": 1.0, "y": 2.0}, "b": {"x": 3.0}}), ["x", "y"])
    bars = [(bar.get_x(), bar.get_x() + bar.get_width(), bar.get_height()) for bar in axes.patches]
    assert bars == [
        pytest.approx((-0.4, 0.0, 1.0)),
        pytest.approx((0.6, 1.0, 2.0)),
        pytest.approx((0.0, 0.4, 3.0)),
    ]


def test_without_matplotlib_the_error_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("monstera.report.drawing.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'monstera\[plots\]'"):
        figures(read_results(root))
