"""Files of what searches found: read as they were written, anything else refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from monstera.search.pareto import pareto_from_json, pareto_to_json, read_pareto, write_pareto
from monstera.search.searched import read_search, search_from_json, search_to_json, write_search
from search.example import PARETO
from search.test_searched import RESULT


@dataclass(frozen=True)
class Kind:
    """A kind of file: something that is kept in one, and the functions that do so."""

    kept: Any
    format: str
    read: Callable[[Path], Any]
    write: Callable[[Any, Path], None]
    to_json: Callable[[Any], dict[str, Any]]
    from_json: Callable[[dict[str, Any]], Any]


KINDS = (
    Kind(PARETO, "monstera.pareto.1", read_pareto, write_pareto, pareto_to_json, pareto_from_json),
    Kind(RESULT, "monstera.search.1", read_search, write_search, search_to_json, search_from_json),
)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.format)


@every_kind
def test_the_file_gives_back_what_was_written(kind: Kind, tmp_path: Path):
    kind.write(kind.kept, tmp_path / "found.json")
    assert kind.read(tmp_path / "found.json") == kind.kept


@every_kind
def test_files_of_another_format_are_refused_with_the_one_expected(kind: Kind):
    with pytest.raises(ValueError, match=kind.format):
        kind.from_json(kind.to_json(kind.kept) | {"format": "other"})


@pytest.mark.parametrize(
    ("kind", "within", "field"), [(KINDS[0], "candidates", "ms"), (KINDS[0], "", "curves"), (KINDS[1], "trials", "ms")]
)
def test_files_that_lack_a_field_are_refused(kind: Kind, within: str, field: str):
    damaged = json.loads(json.dumps(kind.to_json(kind.kept)))
    del (damaged[within][0] if within else damaged)[field]
    with pytest.raises(ValueError, match="incomplete"):
        kind.from_json(damaged)


@every_kind
def test_a_file_that_is_no_json_is_named(kind: Kind, tmp_path: Path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json"):
        kind.read(tmp_path / "bad.json")
