"""Measuring: all time is assigned, every layer meets every kind of holes, and only what is missing is measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monstera import zoo
from monstera.compiler.targets import native
from monstera.measure import example, input_size
from monstera.search.costs import bench, costs_of, table
from monstera.search.costs.bench import asked_of, lacking, measured, rounds_of
from monstera.search.costs.price import expected_price
from monstera.search.costs.subject import subject_of
from monstera.search.costs.table import cached_costs, empty_table
from monstera.sparsity import Plan, pattern
from search.costs.made import EXAMPLE, lawful_table, small, subject

QUICK = ["bert_tiny", "digits_cnn", "gpt2_step_small", "gru_speech_small", "lenet5", "resnet20"]


class _Still:
    """A pace that never waits."""

    def __init__(self, *_):
        pass

    def undisturbed(self, turn):
        return turn(), True


@pytest.fixture
def _quick(tmp_path, monkeypatch):
    # Libraries stay where they are: they say nothing about times.
    monkeypatch.setattr(table, "cached_path", lambda _: tmp_path / "costs.json")
    monkeypatch.setattr(bench, "Pace", _Still)
    monkeypatch.setattr(bench, "_TURN_S", 0.01)


def _check_owners(name: str) -> None:
    """Every step that multiplies weights belongs to one, and every weight that is used has steps."""
    net = zoo.network(name).eval()
    seen = subject_of(net, example(name, input_size(name)))
    program = seen.program(seen.imported(Plan.uniform(net, "4x1", 0.25), own=True), native())
    strays = [step.title for step in program.steps if step.work.packing and step.layer not in seen.views]
    assert not strays
    for weight, signature in seen.signatures.items():
        assert sum(step.work.dense_macs for step in program.steps if step.layer == weight) == signature.macs


@pytest.mark.parametrize("name", QUICK)
def test_every_step_with_weights_belongs_to_one(name):
    _check_owners(name)


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in zoo.NETWORKS if name not in QUICK])
def test_every_step_with_weights_belongs_to_one_in_large_networks(name):
    _check_owners(name)


def test_a_shared_weight_has_all_its_uses():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x).relu())

    seen = subject_of(Twice().eval(), EXAMPLE)
    assert [*seen.views] == ["a.weight"]
    program = seen.program(seen.imported(Plan(), own=True), native())
    assert len([step for step in program.steps if step.layer == "a.weight" and step.work.dense_macs]) == 2


def test_weights_that_the_frontend_turns_have_their_steps():
    seen = subject_of(nn.Sequential(nn.ConvTranspose2d(8, 4, 3)).eval(), EXAMPLE)
    assert [*seen.views] == ["0.weight"]


def test_holes_of_a_model_are_filled():
    model = small()
    with torch.no_grad():
        next(model.parameters())[:4] = 0
    seen = subject_of(model, EXAMPLE)
    assert seen.fingerprint == subject().fingerprint
    assert all((view.weight != 0).all() for view in seen.views.values())
    assert (next(model.parameters())[:4] == 0).all()


def test_holes_of_a_layer_change_the_work_of_no_other():
    seen, plan = subject(), Plan({"0.weight": ("filter", 0.25)})
    work = {}
    for own in (True, False):
        steps = seen.program(seen.imported(plan, own=own), native()).steps
        work[own] = {name: sum(s.work.macs for s in steps if s.layer == name) for name in seen.views}
    assert work[True]["2.weight"] == seen.signatures["2.weight"].macs > work[False]["2.weight"]
    assert work[True]["0.weight"] < seen.signatures["0.weight"].macs


def test_layers_for_which_a_pattern_is_not_feasible_stay_dense():
    seen = subject()
    asked = asked_of(seen, [pattern("patterns4of8"), pattern("2:4")], (0.5, 0.25))
    assert [str(e) for e in asked["2.weight"]] == ["2:4 at density 0.5"]
    assert {e.pattern.name for e in asked["0.weight"]} == {"patterns4of8", "2:4"}
    assert all(
        "2.weight" not in plan or plan["2.weight"].pattern.name == "2:4"
        for plan in rounds_of(seen, asked, empty_table(native()))
    )


def test_rounds_cover_all_that_is_missing_and_nothing_is_measured_twice():
    model = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)), nn.Conv2d(8, 16, 1)).eval()
    seen = subject_of(model, EXAMPLE)
    asked = asked_of(seen, [pattern("4x1"), pattern("unstructured")], (0.5, 0.25))
    plans = rounds_of(seen, asked, empty_table(native()))
    assert plans[0] == Plan() or not plans[0]
    met = {(seen.signatures[name], entry) for plan in plans for name, entry in plan.items()}
    assert met == {(seen.signatures[name], entry) for name, entries in asked.items() for entry in entries}
    # Three layers that are alike share the work, so the single one decides: dense, and its four.
    assert len(plans) == 5
    known = lawful_table([seen], ("4x1", "unstructured"))
    assert lacking(seen, asked_of(seen, [pattern("4x1")], (0.5, 0.25)), known) == {}
    assert rounds_of(seen, asked_of(seen, [pattern("4x1")], (0.5, 0.25)), known) == []


def test_layers_that_are_alike_are_measured_in_several_places():
    model = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(10))).eval()
    seen = subject_of(model, EXAMPLE)
    for densities, rounds in (((0.5,), 1), ((0.5, 0.25), 2), ((0.5, 0.4, 0.3, 0.2, 0.1), 4)):
        plans = rounds_of(seen, asked_of(seen, [pattern("4x1")], densities), empty_table(native()))
        assert len(plans) == 1 + rounds


def test_tables_to_look_up_in_get_no_holes():
    seen = subject_of(
        nn.Sequential(nn.Embedding(10, 16), nn.Linear(16, 16)).eval(), torch.zeros(1, 20, dtype=torch.long)
    )
    asked = asked_of(seen, [pattern("4x1")], (0.5,))
    assert asked == {"0.weight": (), "1.weight": asked["1.weight"]}


@pytest.mark.usefixtures("_quick")
def test_parts_add_up_to_the_run_that_was_measured(monkeypatch):
    turns = []
    calm = bench._calm
    monkeypatch.setattr(bench, "_calm", lambda *a: turns.append(calm(*a)) or turns[-1])
    seen = subject()
    asked = asked_of(seen, [pattern("4x1")], (0.25,))
    tables = [*measured(seen, asked, empty_table(native()), native())]
    assert len(tables) == len(turns) == 2
    parts = [tables[0].point(signature) for signature in seen.signatures.values()]
    whole = sum(point.ms for point in parts if point) + tables[0].rests[seen.fingerprint].ms
    assert whole == pytest.approx(max(turns[0].run, turns[0].call))
    for signature in seen.signatures.values():
        point = tables[1].point(signature, "4x1", 0.25)
        assert point
        assert point.macs == pytest.approx(signature.macs / 4, rel=0.2)


@pytest.mark.usefixtures("_quick")
def test_the_law_is_fitted_to_the_same_figures_of_masks_as_it_is_asked_with():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 1), nn.Flatten(), nn.LazyLinear(4))
    model(EXAMPLE)
    seen = subject_of(model.eval(), EXAMPLE)
    (known,) = measured(seen, asked_of(seen, [], ()), empty_table(native()), native())
    for signature in seen.signatures.values():
        point = known.point(signature)
        assert point
        assert (point.price, point.bytes) == expected_price(signature, None, 1.0, native().name)


@pytest.mark.usefixtures("_quick")
def test_what_was_measured_is_found_again_and_only_the_rest_is_measured(monkeypatch):
    rounds = []
    measure = bench._measure
    monkeypatch.setattr(bench, "_measure", lambda s, plan, *a: rounds.append(plan) or measure(s, plan, *a))
    first = costs_of(small(), EXAMPLE, densities=(0.25,), quiet=True)
    assert len(rounds) == 2
    assert costs_of(small(), EXAMPLE, densities=(0.25,), quiet=True) == first
    assert len(rounds) == 2
    costs_of(small(), EXAMPLE, densities=(0.25, 0.5), quiet=True)
    assert len(rounds) == 3
    assert {entry.density for entry in rounds[-1].values()} == {0.5}


@pytest.mark.usefixtures("_quick")
def test_an_interrupted_measurement_keeps_what_it_has(monkeypatch):
    rounds = []
    measure = bench._measure

    def interrupted(*arguments):
        if len(rounds) == 1:
            raise KeyboardInterrupt
        rounds.append(1)
        measure(*arguments)

    monkeypatch.setattr(bench, "_measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        costs_of(small(), EXAMPLE, densities=(0.25,), quiet=True)
    assert cached_costs(native()).points == 3


@pytest.mark.usefixtures("_quick")
def test_measuring_stops_when_its_time_is_up_but_not_before_dense(monkeypatch):
    monkeypatch.setattr(bench, "LIMIT_S", 0.0)
    costs = costs_of(small(), EXAMPLE, densities=(0.25,), quiet=True)
    assert not any(layer.curves for layer in costs.layers.values())
    assert costs.dense_ms > 0


def test_costs_of_a_machine_that_is_not_here_cannot_be_measured():
    absent = "avx2" if native().name == "neon" else "neon"
    with pytest.raises(ValueError, match="pass a table"):
        costs_of(small(), EXAMPLE, target=absent, quiet=True)
