"""Tuning: any choice computes the same, the fastest is taken, what was found is found again."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

import monstera as ms
from compiler.agreement import compare, torch_answers
from compiler.batch import poison_arenas, run
from compiler.graphs import imported, random_inputs, random_model
from monstera.compiler.build import build
from monstera.compiler.describe import manifest_of
from monstera.compiler.emit import emit, unit
from monstera.compiler.lowering import lower_with
from monstera.compiler.lowering.choice import Case, Choice
from monstera.compiler.passes import optimize
from monstera.compiler.targets import TARGETS, native
from monstera.compiler.tuning import Table, TableError, read_tuning, search, table_of, write_tuning
from monstera.runtime.library import Library
from monstera.runtime.tensors import data_of, pack_tensors


@pytest.fixture
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MONSTERA_CACHE", str(tmp_path / "cache"))


def _network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(648, 5))
    return model.eval()


EXAMPLE = torch.zeros(1, 3, 9, 9)


def _random_choice(case: Case, rng: random.Random) -> Choice:
    choice = case.default
    for _ in range(6):
        choice = search._mutated(choice, case, native(), rng)
    return choice


@pytest.mark.parametrize("threads", [1, 2])
def test_whatever_is_chosen_random_networks_agree_with_the_interpreter_and_with_torch(monkeypatch, threads):
    poison_arenas(monkeypatch)
    rng, units, graphs, models = random.Random(7), [], [], []
    for seed in range(2000, 2020):
        models.append(random_model(np.random.default_rng(seed)))
        graphs.append(imported(models[-1]))
        graph = optimize(graphs[-1].graph)
        cases = lower_with(graph, native(), threads, {}).cases
        choices = {key: [_random_choice(case, rng)] for key, case in cases.items()}
        units.append(unit(lower_with(graph, native(), threads, choices).program, f"net{seed}"))
    path = build(emit(units, native(), threads), native())
    for seed, (u, graph, model) in enumerate(zip(units, graphs, models, strict=True), 2000):
        weights = data_of(pack_tensors(u.program.tables))
        runner = Library(path, manifest_of([graph], [u], native(), threads), weights, u.prefix)
        inputs = random_inputs(graph.graph, seed)
        compare(f"seed {seed}", graph.graph, inputs, run(runner, graph, inputs), torch_answers(model, graph, inputs))


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("effort", ["fast", "full"])
def test_a_tuned_network_answers_right_and_is_found_again_without_timing(monkeypatch, effort):
    monkeypatch.setattr(search, "GENERATIONS", 2)
    model, x = _network(), torch.randn(1, 3, 9, 9)
    first = ms.compile(model, EXAMPLE, tune=effort)
    torch.testing.assert_close(first(x), model(x).detach(), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(search, "time_choices", _never)
    again = ms.compile(model, EXAMPLE, tune=effort)
    assert again.c_source == first.c_source
    assert again.manifest.tuning == first.manifest.tuning
    assert len(first.manifest.tuning) == 3


def _never(*_: object) -> None:
    raise AssertionError("timed again")


@pytest.mark.usefixtures("_own_cache")
def test_the_fastest_choice_is_taken_if_it_is_clearly_faster(monkeypatch):
    def pretend(_imported, _target, _threads, choices, _cuts):
        return {key: {c: 1.0 if c.tile == 4 else 2.0 for c in options} for key, options in choices.items()}

    monkeypatch.setattr(search, "time_choices", pretend)
    monkeypatch.setattr(search, "promising", lambda _case, _target: iter([Choice("natural", (8,), 4)]))
    engine = ms.compile(_network(), EXAMPLE, tune="fast")
    assert {entry["tile"] for entry in engine.manifest.tuning.values()} == {4}


@pytest.mark.usefixtures("_own_cache")
def test_a_choice_that_is_hardly_faster_is_left(monkeypatch):
    def pretend(_imported, _target, _threads, choices, _cuts):
        return {key: {c: 0.99 if c.tile == 4 else 1.0 for c in options} for key, options in choices.items()}

    monkeypatch.setattr(search, "time_choices", pretend)
    engine = ms.compile(_network(), EXAMPLE, tune="fast")
    assert {entry["tile"] for entry in engine.manifest.tuning.values()} == {0}


@pytest.mark.usefixtures("_own_cache")
def test_a_table_travels_as_a_file_and_spares_the_timing(tmp_path, monkeypatch):
    tuned = ms.compile(_network(), EXAMPLE, tune="fast")
    path = tmp_path / "layers.json"
    ms.write_tuning(tuned, path)
    monkeypatch.setattr(search, "time_choices", _never)
    monkeypatch.setenv("MONSTERA_CACHE", str(tmp_path / "elsewhere"))
    engine = ms.compile(_network(), EXAMPLE, tune="fast", tuning=path)
    assert engine.manifest.tuning == tuned.manifest.tuning
    assert ms.compile(_network(), EXAMPLE, tuning=ms.read_tuning(path)).c_source == engine.c_source


def test_a_table_is_read_as_it_was_written(tmp_path):
    table = Table({"a": Choice("natural", (4, 1), 5, 10, 2, 3), "b": Choice("clustered", (16,))}, {"a": 0.25})
    write_tuning(table, tmp_path / "t.json")
    assert read_tuning(tmp_path / "t.json") == table
    assert table_of(table.of(["a", "b", "absent"])) == table


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "not a tuning table"),
        ("[]", "not a tuning table"),
        ('{"format": "other"}', "its format is 'other'"),
        ('{"format": "monstera tuning", "version": 9, "layers": {}}', "version 9"),
        ('{"format": "monstera tuning", "version": 1, "layers": {"a": {"order": "natural"}}}', "damaged"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, text, words):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(TableError, match=words):
        ms.compile(_network(), EXAMPLE, tuning=path)


def test_a_table_that_names_what_does_not_exist_falls_back_on_the_model(tmp_path):
    path = tmp_path / "t.json"
    engine = ms.compile(_network(), EXAMPLE)
    keys = lower_with(optimize(imported_network().graph), native(), 1, {}).cases
    entry = {"order": "clustered", "sizes": [3], "tile": 0, "chunk": 0, "unroll": 1, "groups": 0, "ms": None}
    layers = dict.fromkeys(keys, entry)
    path.write_text(json.dumps({"format": "monstera tuning", "version": 1, "layers": layers}))
    x = torch.randn(1, 3, 9, 9)
    torch.testing.assert_close(ms.compile(_network(), EXAMPLE, tuning=path)(x), engine(x))


def imported_network():
    from monstera.compiler.frontends import from_torch

    return from_torch(_network(), (EXAMPLE,), {})


def test_an_unknown_effort_is_refused_before_work_begins():
    with pytest.raises(ValueError, match="tune is 'faster'; expected one of 'none', 'fast', 'full'"):
        ms.compile(None, EXAMPLE, tune="faster")  # type: ignore[arg-type]


def test_targets_that_cannot_be_timed_are_refused():
    foreign = next(t.name for t in TARGETS.values() if t.architecture != native().architecture)
    with pytest.raises(ValueError, match="cannot run here"):
        ms.compile(_network(), EXAMPLE, tune="fast", target=foreign)
