"""Predictions: times by the costs, work and memory as an engine has them, energy as its assumptions say."""

from __future__ import annotations

import pytest
import torch

import monstera as ms
from monstera.compiler.targets import native
from monstera.search import predict
from monstera.search.costs import costing
from monstera.search.costs.energy import CACHE_BYTES, CACHE_PJ, DRAM_PJ, MAC_PJ, NEAR_PJ, energy_of
from monstera.sparsity import Plan
from search.costs.made import EXAMPLE, MACHINE, lawful_table, small, subject

PLAN = Plan({"0.weight": ("4x1", 0.25), "2.weight": ("4x1", 0.5)})


@pytest.fixture(scope="module")
def costs():
    return costing.network_costs(subject(), lawful_table([subject()]))


@pytest.fixture(scope="module")
def prediction(costs):
    return predict(small(), EXAMPLE, PLAN, costs)


def test_times_are_those_of_the_costs(prediction, costs):
    assert prediction.ms == pytest.approx(costs.network_ms(PLAN))
    assert prediction.dense_ms == pytest.approx(costs.dense_ms)
    assert [p.weight for p in prediction.layers] == list(costs.weights)
    assert [p.planned for p in prediction.layers] == ["4x1 at density 0.25", "4x1 at density 0.5", ""]


def test_work_and_memory_are_those_of_the_engine(prediction):
    model = small()
    weights = PLAN.weights(model)
    for name, projected in PLAN.project(weights, PLAN.layouts(model)).items():
        weights[name].data.copy_(projected)
    engine = ms.compile(model, EXAMPLE)
    if native().name == MACHINE.target:
        assert prediction.arena_bytes == engine.memory.arena_bytes
        assert prediction.weight_bytes == engine.memory.weight_bytes
    assert prediction.macs == sum(layer.macs for layer in engine.manifest.layers)
    assert prediction.dense_macs == sum(p.dense_macs for p in prediction.layers)


def test_fewer_weights_mean_less_of_everything(prediction, costs):
    dense = predict(small(), EXAMPLE, Plan(), costs)
    assert dense.ms == dense.dense_ms > prediction.ms
    assert dense.macs == dense.dense_macs == prediction.dense_macs > prediction.macs
    assert dense.weight_bytes == dense.dense_weight_bytes > prediction.weight_bytes
    assert dense.energy.total_mj > prediction.energy.total_mj


def test_it_prints_as_a_table(prediction):
    text = str(prediction)
    assert "0.weight" in text
    assert "4x1 at density 0.25" in text
    assert "whole network" in text
    assert "mJ" in text


def test_costs_of_another_network_are_refused(costs):
    from torch import nn

    with pytest.raises(ValueError, match="another network"):
        predict(nn.Sequential(nn.Conv2d(8, 8, 3)).eval(), EXAMPLE, Plan(), costs)


@pytest.mark.parametrize(("model", "example"), [(small(24), EXAMPLE), (small(), torch.zeros(2, 8, 12, 12))])
def test_costs_of_equal_names_but_other_layers_or_shapes_are_refused(costs, model, example):
    with pytest.raises(ValueError, match=r"called with other shapes: 0\.weight is another layer"):
        predict(model, example, PLAN, costs)


def test_plans_that_do_not_fit_are_refused(costs):
    with pytest.raises(ms.PlanError, match=r"7\.weight"):
        predict(small(), EXAMPLE, Plan({"7.weight": ("4x1", 0.5)}), costs)


def test_energy_is_counted_by_level():
    small_one = energy_of(10**9, 10**6, 10**6, 10**6)
    assert small_one.arithmetic_mj == pytest.approx(MAC_PJ + NEAR_PJ)
    assert small_one.weights_mj == pytest.approx(1e-3 * CACHE_PJ)
    large = energy_of(0, CACHE_BYTES + 1, 10**6, CACHE_BYTES + 1)
    assert large.planes_mj == pytest.approx(1e-3 * DRAM_PJ)
    assert large.total_mj == large.weights_mj + large.planes_mj
