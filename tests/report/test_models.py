"""The page of architectures, from points made by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from monstera.measure import Macs, Point, Study, Timing, write_study
from monstera.report import models_page, read_results
from monstera.report.models import works
from report.example import STUDY

LINES = {"torch eager": 4.0, "dense": 2.0, "4x1 at density 0.25": 0.5}


def points(kind: str, name: str, notes: dict[str, str]) -> tuple[Point, ...]:
    facts = {"model": f"{name}Model", "part": "encoder" if name == "T5" else ""}
    return tuple(
        Point(kind, line, name, Macs(3_000_000, 3_000_000), note=notes[line], facts=facts)
        if line in notes
        else Point(kind, line, name, Macs(3_000_000, 3_000_000), 1e-7 * ms, Timing((ms, ms, ms), ms, 9), facts=facts)
        for line, ms in LINES.items()
    )


FOUND = replace(
    STUDY,
    name="architectures",
    subject="small",
    points=(
        *points("encoder", "T5", {}),
        *points("encoder", "Torn", {"dense": "it tears", "4x1 at density 0.25": "it tears"}),
        *points("vision", "Half", {"4x1 at density 0.25": "no weight is left to prune"}),
    ),
)


def page(tmp_path: Path, study: Study = FOUND) -> str:
    write_study(study, tmp_path / "benchmarks" / "results" / "architectures.json")
    return models_page(read_results(tmp_path)) or ""


def test_what_works_has_its_times_and_the_larger_error(tmp_path: Path):
    text = page(tmp_path)
    assert "1 of 3 architectures work, dense and with 4x1 at density 0.25.\n" in text
    assert "| MMAC | torch eager, ms | dense, ms | 4x1 at density 0.25, ms | spread | error |" in text
    assert "| T5 | `T5Model` (encoder) | 3.0 | 4.00 | 2.00 (2.0x) | 0.500 (8.0x) | 0% | 2e-07 |" in text
    assert "[`benchmarks/results/architectures.json`](../benchmarks/results/architectures.json)" in text


def test_rounds_that_the_machine_disturbed_are_said(tmp_path: Path):
    timing = Timing((2.0, 3.0, 2.0), 2.0, 9, disturbed=2)
    study = replace(FOUND, points=tuple(replace(p, timing=p.timing and timing) for p in FOUND.points))
    assert "| 50% (2 disturbed) |" in page(tmp_path, study)


def test_without_times_the_page_says_so_and_has_no_column_for_them(tmp_path: Path):
    text = page(tmp_path, replace(FOUND, points=tuple(replace(p, timing=None) for p in FOUND.points)))
    assert "has not been measured" in text
    assert "| architecture | class | MMAC | error |" in text
    assert "| T5 | `T5Model` (encoder) | 3.0 | 2e-07 |" in text
    assert " ms" not in text


def test_what_does_not_work_says_why_once_or_where(tmp_path: Path):
    text = page(tmp_path)
    assert "| Torn | it tears |" in text
    assert "| Half | 4x1 at density 0.25: no weight is left to prune |" in text
    assert "**vision**" not in text
    assert list(works(FOUND)) == ["T5"]


def test_without_a_study_there_is_no_page(tmp_path: Path):
    assert models_page(read_results(tmp_path)) is None


def test_an_architecture_with_a_point_missing_is_named(tmp_path: Path):
    torn = replace(FOUND, points=FOUND.points[:-1])
    write_study(torn, tmp_path / "benchmarks" / "results" / "architectures.json")
    with pytest.raises(ValueError, match="three points for each architecture; Half have not"):
        models_page(read_results(tmp_path))
