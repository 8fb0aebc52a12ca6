"""Files of results: read, checked and written in one place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from monstera.measure import in_format, read_json, write_json

FORM = "things.1"


def _make(data: Mapping[str, Any]) -> int:
    if data["count"] < 0:
        raise ValueError(f"count: expected at least 0, got {data['count']}")
    return data["count"] + 1


def _read(path: Path) -> int:
    return read_json(path, lambda data: in_format(data, FORM, _make))


def test_what_was_written_is_read_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_json({"format": FORM, "count": 2}, path)
    assert path.read_text() == '{\n  "format": "things.1",\n  "count": 2\n}\n'
    assert _read(path) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", r"a\.json: not JSON \(Expecting"),
        (b"\xff", r"a\.json: 'utf-8' codec"),
        (b"[]", r"a\.json: expected a result of format 'things\.1', got None"),
        (b'{"format": "other"}', r"a\.json: expected a result of format 'things\.1', got 'other'"),
        (b'{"format": "things.1"}', r"a\.json: a result of format 'things\.1' is incomplete .*'count'"),
        (b'{"format": "things.1", "count": null}', r"a\.json: a result of format 'things\.1' is incomplete"),
        (b'{"format": "things.1", "count": -1}', r"a\.json: count: expected at least 0, got -1"),
    ],
)
def test_what_is_no_such_result_is_named(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        _read(tmp_path / "a.json")


def test_a_file_that_is_missing_is_no_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _read(tmp_path / "a.json")


def test_what_json_has_no_word_for_is_refused_and_the_older_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json({"format": FORM, "count": 2}, path)
    with pytest.raises(ValueError, match="JSON"):
        write_json({"format": FORM, "count": float("nan")}, path)
    assert _read(path) == 3
