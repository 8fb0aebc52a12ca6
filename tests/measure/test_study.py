import json
from dataclasses import replace
from pathlib import Path

import pytest

from monstera.measure import (
    Bandwidth,
    Macs,
    Point,
    Study,
    Timing,
    fma_peaks,
    make_study,
    read_study,
    study_from_json,
    study_to_json,
    this_machine,
    write_study,
)

# 2 x 25 million operations: 0.5 ms at 100 GFLOP/s.
WORK = Macs(100_000_000, 25_000_000)
FAST = Point("density", "4x1", 0.25, WORK, 1e-6, Timing((1.0, 1.0, 1.0), 0.9, 60), facts={"kernel": "k", "bytes": 100})
ABSENT = Point("density", "4x1", 0.1, WORK, note="not measured")
OTHER = Point("threads", "dense", 2, WORK, 1e-6, Timing((2.0, 2.0, 2.0), 1.9, 60), threads=2)
LEVELS = (
    Bandwidth("L1", 32_000, 16_000, 200.0),
    Bandwidth("L2", 1_000_000, 128_000, 100.0),
    Bandwidth("DRAM", 10**9, 10**9, 10.0),
)
STUDY = Study("scaling", "tiny", "2026-01-01", this_machine(), {1: 100.0, 2: 200.0}, LEVELS, (FAST, ABSENT, OTHER))


def test_a_study_comes_back_from_json_as_it_was(tmp_path: Path):
    write_study(STUDY, tmp_path / "tiny.json")
    assert read_study(tmp_path / "tiny.json") == STUDY


def test_a_sweep_is_read_line_by_line():
    assert STUDY.sweep("density") == {"4x1": (FAST, ABSENT)}
    assert STUDY.sweep("batch") == {}


def test_the_bound_is_arithmetic_at_the_peak_of_as_many_threads():
    assert STUDY.bound_ms(FAST) == pytest.approx(0.5)
    assert STUDY.efficiency(FAST) == pytest.approx(0.5)
    assert STUDY.bound_ms(OTHER) == pytest.approx(0.25)
    assert STUDY.efficiency(ABSENT) is None


@pytest.mark.parametrize(("count", "bound_ms"), [(32_000, 0.00016), (1_000_000, 0.01), (1_000_001, 0.1000001)])
def test_where_reading_takes_longer_it_is_the_bound_and_bytes_come_from_the_first_level_that_holds_them(
    count: int, bound_ms: float
):
    few = Macs(10, 10)
    assert STUDY.bound_ms(replace(FAST, macs=few, facts={"bytes": count})) == pytest.approx(bound_ms)


def test_without_a_peak_nothing_is_made_up():
    assert STUDY.bound_ms(replace(FAST, threads=3)) is None
    assert STUDY.efficiency(replace(FAST, threads=3)) is None
    assert replace(STUDY, bandwidths=()).bound_ms(FAST) == pytest.approx(0.5)


def test_a_point_has_an_answer_timed_or_not_or_a_reason():
    assert replace(FAST, timing=None).error == 1e-6
    for wrong in ({"note": ""}, {"error": 1e-6}, {"timing": FAST.timing}):
        with pytest.raises(ValueError, match=r"density, 4x1 at 0\.1: expected either an error or timing, or a note"):
            replace(ABSENT, **wrong)


def test_a_foreign_file_is_named_in_the_error(tmp_path: Path):
    (tmp_path / "other.json").write_text(json.dumps({"format": "monstera.comparison.1"}))
    with pytest.raises(ValueError, match=r"other\.json: expected a result of format 'monstera\.study\.1'"):
        read_study(tmp_path / "other.json")


def test_a_study_with_a_field_missing_says_which():
    data = study_to_json(STUDY)
    del data["points"][0]["macs"]
    with pytest.raises(ValueError, match="incomplete or has unknown fields: 'macs'"):
        study_from_json(data)


def test_a_study_is_made_with_the_limits_of_this_machine():
    study = make_study("scaling", "tiny", (FAST,), fma_peaks([1]))
    assert study.peak_gflops.keys() == {1}
    assert next(b.level for b in study.bandwidths) == "L1"
    assert study.machine == this_machine()
