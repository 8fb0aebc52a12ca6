"""Tables: read as they were written, anything else refused, and what is there stays."""

from __future__ import annotations

import fcntl
import json
import threading
from dataclasses import replace
from math import inf

import pytest

from monstera.compiler.targets import native
from monstera.search import CostTable, CostTableError, read_costs, write_costs
from monstera.search.costs.table import Machine, Point, Rest, cached_costs, cached_path, empty_table, keep_costs
from search.costs.made import MACHINE, lawful_table, subject


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "costs.json"
    write_costs(lawful_table([subject()]), file)
    return file


def test_a_table_is_read_as_it_was_written(path):
    assert read_costs(path) == lawful_table([subject()])


def test_no_table_is_no_table(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_costs(tmp_path / "costs.json")


def _with_layer(raw, change):
    change(next(iter(raw["layers"].values())))
    return raw


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw | {"version": 2}, "update Monstera"),
        (lambda raw: raw | {"format": "monstera tuning"}, "not a cost table"),
        (lambda raw: {name: raw[name] for name in ("format", "version", "machine")}, "damaged"),
        (lambda raw: raw | {"more": 1}, "damaged"),
        (
            lambda raw: raw | {"layers": dict(zip([*raw["layers"]][::-1], raw["layers"].values(), strict=True))},
            "another",
        ),
        (lambda raw: raw | {"machine": raw["machine"] | {"target": "abacus"}}, "abacus"),
        (lambda raw: [raw], "not a cost table"),
        (lambda raw: _with_layer(raw, lambda layer: layer["points"].append(layer["points"][1])), "two times"),
        (lambda raw: _with_layer(raw, lambda layer: layer["points"][1].update(ms="inf")), "positive time"),
        (lambda raw: _with_layer(raw, lambda layer: layer["points"][1].update(price="nan")), "positive time"),
        (lambda raw: _with_layer(raw, lambda layer: layer["signature"].update(uses=[])), "a use"),
        (lambda raw: _with_layer(raw, lambda layer: layer["signature"]["uses"][0].update(weight=[0, 8])), "positive"),
        (lambda raw: raw | {"rests": {"a": {"ms": "inf", "bytes": 1, "macs": 1}}}, "at least 0"),
    ],
)
def test_foreign_newer_and_damaged_files_are_refused(path, change, message):
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(CostTableError, match=message) as refused:
        read_costs(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_half_a_file_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CostTableError):
        read_costs(path)


@pytest.mark.parametrize(
    "wrong", [{"ms": 0.0}, {"ms": -1.0}, {"density": 0.0}, {"density": 1.5}, {"macs": -1}, {"ms": inf}]
)
def test_a_point_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="positive time"):
        replace(Point("4x1", 0.5, 1.0, 10, 10, 1.0), **wrong)


def test_what_is_in_a_table_stays_as_it_is():
    (signature, *_) = subject().signatures.values()
    first, second = Point("4x1", 0.5, 1.0, 10, 10, 1.0), Point("4x1", 0.5, 2.0, 10, 10, 1.0)
    table = CostTable(MACHINE).with_points(signature, [first])
    assert table.with_points(signature, [second]) == table
    assert table.joined(CostTable(MACHINE).with_points(signature, [second])) == table
    assert table.with_points(signature, [replace(second, density=0.25)]).points == 2
    kept = table.with_rest("a", Rest(1.0, 1, 1))
    assert kept.with_rest("a", Rest(2.0, 1, 1)) == kept


def test_what_two_processes_keep_is_all_there(tmp_path, monkeypatch):
    monkeypatch.setenv("MONSTERA_CACHE", str(tmp_path))
    target = native()
    assert cached_costs(target) == empty_table(target)
    one, other = (replace(lawful_table([subject(width)]), machine=empty_table(target).machine) for width in (16, 32))
    keep_costs(one, target)
    keep_costs(other, target)
    assert cached_costs(target) == one.joined(other)
    assert cached_costs(target).points == one.points + other.points


def test_a_process_that_keeps_waits_for_another_that_does(tmp_path, monkeypatch):
    monkeypatch.setenv("MONSTERA_CACHE", str(tmp_path))
    target = native()
    one, other = (replace(lawful_table([subject(width)]), machine=empty_table(target).machine) for width in (16, 32))
    keep_costs(empty_table(target), target)
    path = cached_path(target)
    late = threading.Thread(target=keep_costs, args=(other, target))
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        late.start()
        late.join(0.2)
        assert late.is_alive()
        write_costs(one, path)
    late.join(60)
    assert cached_costs(target) == one.joined(other)


def test_a_damaged_cache_is_as_good_as_none(tmp_path, monkeypatch):
    monkeypatch.setenv("MONSTERA_CACHE", str(tmp_path))
    keep_costs(empty_table(native()), native())
    cached_path(native()).write_text("{")
    assert cached_costs(native()) == empty_table(native())


def test_tables_of_different_machines_are_not_joined():
    with pytest.raises(ValueError, match="keep the tables apart"):
        CostTable(MACHINE).joined(CostTable(replace(MACHINE, kernels="others")))


def test_a_table_says_where_it_comes_from():
    assert isinstance(empty_table(native()).machine, Machine)
    assert empty_table(native()).machine.target == native().name
