"""Costs of a network: measured points as they are, affine between them, the law beyond, and sums that fit."""

from __future__ import annotations

import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monstera.search import CostTable, CostTableError, costs_from_json, costs_of
from monstera.search.costs import costing
from monstera.search.costs.costing import network_costs
from monstera.search.costs.network import Curve, ascending, curve_of
from monstera.search.costs.table import Point
from monstera.sparsity import Entry, Plan
from search.costs.made import DENSITIES, EXAMPLE, MACHINE, lawful_ms, lawful_table, small, subject

WIDTHS = (8, 16, 24, 32, 48)


@pytest.fixture(scope="module")
def table() -> CostTable:
    return lawful_table([subject(width) for width in WIDTHS])


@pytest.fixture(scope="module")
def costs(table):
    return network_costs(subject(), table)


def test_weights_stand_in_the_order_in_which_their_layers_run(costs):
    assert costs.weights == ("0.weight", "2.weight", "4.weight")


def test_measured_layers_are_as_they_were_measured(costs):
    for name, signature in subject().signatures.items():
        assert costs.layer_ms(name) == lawful_ms(signature, None)
        measured = [lawful_ms(signature, Entry("4x1", density)) for density in DENSITIES]
        assert [costs.layer_ms(name, Entry("4x1", density)) for density in DENSITIES] == pytest.approx(measured)


def test_the_whole_is_the_sum_of_its_parts(costs):
    plan = Plan({"0.weight": ("4x1", 0.3), "4.weight": ("unstructured", 0.07)})
    parts = [costs.layer_ms(name, plan.get(name)) for name in costs.weights]
    assert costs.network_ms(plan) == pytest.approx(sum(parts) + costs.rest_ms)
    assert costs.network_ms(Plan()) == pytest.approx(costs.dense_ms)


def test_time_falls_with_density(costs):
    for pattern, measured in (("4x1", True), ("unstructured", True), ("8x1", False)):
        times = [costs.network_ms(Plan(dict.fromkeys(costs.weights, (pattern, d / 50)))) for d in range(1, 51)]
        assert times[0] < times[-1] <= costs.dense_ms * (1 + 1e-9)
        if measured:
            assert all(a <= b * (1 + 1e-6) for a, b in pairwise(times))


def test_a_weight_that_is_not_there_is_an_error(costs):
    with pytest.raises(KeyError, match=r"5\.weight"):
        costs.layer_ms("5.weight")
    with pytest.raises(KeyError, match=r"5\.weight"):
        costs.network_ms(Plan({"5.weight": ("4x1", 0.5)}))


def test_costs_travel(costs):
    assert pickle.loads(pickle.dumps(costs)) == costs
    assert costs_from_json(costs.to_json()) == costs
    assert list(costs_from_json(costs.to_json()).weights) == list(costs.weights)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "monstera network costs", "version": 1}'])
def test_texts_that_are_no_costs_are_refused(text):
    with pytest.raises(CostTableError):
        costs_from_json(text)


def test_newer_costs_are_refused(costs):
    with pytest.raises(CostTableError, match="update"):
        costs_from_json(costs.to_json().replace('"version": 1', '"version": 9', 1))


def test_a_pattern_that_was_not_measured_comes_from_the_law(costs):
    for name, signature in subject().signatures.items():
        wanted = lawful_ms(signature, Entry("8x1", 0.25))
        assert costs.layer_ms(name, Entry("8x1", 0.25)) == pytest.approx(wanted, rel=0.2)


def test_a_network_that_a_table_lacks_comes_from_the_law(table):
    other = subject(40)
    costs = network_costs(other, table)
    assert not costs.rest_measured
    for name, signature in other.signatures.items():
        assert not costs.layers[name].is_measured
        assert costs.layer_ms(name) == pytest.approx(lawful_ms(signature, None), rel=0.2)
    assert costs.rest_ms > 0


def test_a_small_table_refuses_to_predict_what_it_lacks():
    small_table = lawful_table([subject()], patterns=())
    known = network_costs(subject(), small_table)
    with pytest.raises(CostTableError, match="not measured"):
        known.layer_ms("0.weight", Entry("4x1", 0.5))
    with pytest.raises(CostTableError, match="at least"):
        network_costs(subject(40), small_table)
    with pytest.raises(CostTableError, match="at least"):
        network_costs(subject(), CostTable(MACHINE))


def test_a_table_of_another_machine_is_used_without_measuring(table, monkeypatch):
    monkeypatch.setattr("monstera.search.costs.costing.measured", None)
    costs = costs_of(small(), EXAMPLE, table=table)
    assert costs == network_costs(subject(), table)
    assert costs.machine == MACHINE
    with pytest.raises(ValueError, match="avx2"):
        costs_of(small(), EXAMPLE, table=table, target="avx2")


def test_patterns_that_compete_over_the_network_are_measured_and_predicted_as_each_layer_has_them(costs, monkeypatch):
    asked, known = {}, lawful_table([subject()])
    monkeypatch.setattr(costing, "measured", lambda _, wanted, *__: asked.update(wanted) or iter([known]))
    monkeypatch.setattr(costing, "keep_costs", lambda *_: None)
    costs_of(small(), EXAMPLE, patterns=["4x1@network"], densities=(0.25,), quiet=True)
    assert {entry for entries in asked.values() for entry in entries} == {Entry("4x1", 0.25)}
    for name in costs.weights:
        assert costs.layer_ms(name, Entry("4x1@network", 0.25)) == costs.layer_ms(name, Entry("4x1", 0.25))


def test_densities_are_kept_fractions():
    with pytest.raises(ValueError, match="fractions"):
        costs_of(small(), EXAMPLE, densities=(90,))


def test_a_curve_meets_its_points_and_is_affine_between_them():
    curve = Curve((0.1, 0.5, 1.0), (1.0, 2.0, 4.0))
    assert [curve.at(d) for d in (0.1, 0.3, 0.5, 0.75, 1.0)] == pytest.approx([1.0, 1.5, 2.0, 3.0, 4.0])
    assert curve.at(0.08) == pytest.approx(0.95)
    assert curve.at(0.0001) == pytest.approx(0.75, abs=1e-3)


def test_times_that_are_out_of_order_share_their_mean():
    points = [
        Point("4x1", density, ms, 1, 1, 1.0) for density, ms in ((0.5, 1.0), (0.25, 2.0), (0.1, 0.5), (0.75, 9.0))
    ]
    assert curve_of(points, 4.0) == Curve((0.1, 0.25, 0.5, 0.75, 1.0), (0.5, 1.5, 1.5, 4.0, 4.0))


def test_below_its_points_a_curve_falls_at_most_in_proportion():
    steep = Curve((0.5, 1.0), (1.0, 3.0))
    assert steep.at(0.25) == 0.5


@pytest.mark.parametrize(
    ("densities", "ms"),
    [((), ()), ((0.5,), ()), ((0.5, 0.5), (1.0, 1.0)), ((0.5, 1.0), (2.0, 1.0)), ((0.5, 1.0), (0.0, 1.0))],
)
def test_a_curve_that_is_none_is_refused(densities, ms):
    with pytest.raises(ValueError, match="expected"):
        Curve(densities, ms)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.floats(0.01, 100), st.data())
def test_every_curve_is_positive_and_monotone(times, dense_ms, data):
    points = [Point("4x1", (i + 1) / (len(times) + 1), ms, 1, 1, 1.0) for i, ms in enumerate(times)]
    curve = curve_of(points, dense_ms)
    low, high = sorted((data.draw(st.floats(1e-3, 1)), data.draw(st.floats(1e-3, 1))))
    assert 0 < curve.at(low) <= curve.at(high) * (1 + 1e-9)
    assert curve.at(1.0) <= dense_ms * (1 + 1e-9)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12))
def test_pooling_keeps_the_sum_and_what_ascends(values):
    pooled = ascending(values)
    assert sum(pooled) == pytest.approx(sum(values))
    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(pooled))
    assert ascending(sorted(values)) == sorted(values)
