import json
from dataclasses import replace
from pathlib import Path

import pytest

from monstera.measure import Comparison, Macs, Row, Timing, fastest, from_json, read, this_machine, to_json, write

SLOW = Row("slow", "dense", Macs(100, 100), 1e-6, Timing((2.0, 4.0, 3.0), 1.5, 30))
FAST = Row("fast", "4x1 @ 0.25", Macs(100, 25), 2e-6, Timing((1.0, 1.0, 1.0), 0.9, 90))
ABSENT = Row("absent", "dense", Macs(100, 100), note="needs a C++ compiler")
COMPARISON = Comparison("tiny", ((1, 3, 8, 8),), 1, "2026-01-01", this_machine(), 100.0, (SLOW, FAST, ABSENT))


def test_a_result_comes_back_from_json_as_it_was(tmp_path: Path):
    path = tmp_path / "new" / "tiny.json"
    write(COMPARISON, path)
    assert read(path) == COMPARISON


def test_nothing_but_the_finished_file_is_left_in_the_folder(tmp_path: Path):
    write(COMPARISON, tmp_path / "tiny.json")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.json"]


def test_a_result_that_cannot_be_written_leaves_the_old_one_whole(tmp_path: Path):
    path = tmp_path / "tiny.json"
    write(COMPARISON, path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(replace(COMPARISON, peak_gflops=float("nan")), path)
    assert read(path) == COMPARISON
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.json"]


def test_a_foreign_file_is_named_in_the_error(tmp_path: Path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"format": "something else"}))
    with pytest.raises(ValueError, match=r"other\.json.*expected a result of format"):
        read(path)


def test_a_result_with_a_field_missing_says_which():
    data = to_json(COMPARISON)
    del data["threads"]
    with pytest.raises(ValueError, match="threads"):
        from_json(data)


def test_files_from_before_there_was_a_choice_are_read_as_untuned_fp32():
    data = to_json(COMPARISON)
    del data["tune"]
    for row in data["rows"]:
        del row["precision"]
    assert from_json(data) == COMPARISON


def test_a_row_has_a_time_or_a_reason():
    with pytest.raises(ValueError, match="either a timing or a note"):
        Row("engine", "dense", Macs(1, 1))
    with pytest.raises(ValueError, match="either a timing or a note"):
        replace(FAST, note="absent")


def test_a_row_that_does_not_exist_is_answered_with_those_that_do():
    assert COMPARISON.row("fast", "4x1 @ 0.25") is FAST
    with pytest.raises(ValueError, match=r"no row for fast, dense; there are slow, dense; fast, 4x1 @ 0\.25"):
        COMPARISON.row("fast")


def test_the_fastest_row_is_found_among_those_that_were_timed():
    assert fastest(COMPARISON.rows) is FAST
    assert fastest([ABSENT]) is None


def test_efficiency_counts_surviving_weights_against_the_peak():
    # 2 x 25 operations in 1 ms against 100 GFLOP/s = 1e8 operations a millisecond.
    assert COMPARISON.efficiency(FAST) == pytest.approx(50 / 1e8)
    assert COMPARISON.efficiency(ABSENT) is None
    assert replace(COMPARISON, peak_gflops=None).efficiency(FAST) is None
