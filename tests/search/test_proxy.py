from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from monstera.search import loss_after_projection
from monstera.sparsity import Plan, PlanError
from monstera.zoo import digits_cnn


def test_each_layer_is_projected_alone_and_put_back() -> None:
    torch.manual_seed(0)
    model = digits_cnn().train()
    plan, before = Plan.uniform(model, "4x1", 0.25), copy.deepcopy(model.state_dict())
    seen = []

    def evaluate(net: nn.Module) -> float:
        seen.append({name: bool((net.get_parameter(name) == 0).any()) for name in plan})
        assert net.training
        return float(len(seen))

    assert loss_after_projection(model, plan, evaluate) == {"conv2.weight": 1.0, "conv3.weight": 2.0}
    assert seen == [{"conv2.weight": True, "conv3.weight": False}, {"conv2.weight": False, "conv3.weight": True}]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_are_put_back_when_the_evaluation_fails() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    before = model[0].weight.detach().clone()

    def fails(_: nn.Module) -> float:
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        loss_after_projection(model, Plan({"0.weight": ("4x1", 0.5)}), fails)
    assert torch.equal(model[0].weight, before)


def test_a_plan_of_another_model_is_refused() -> None:
    with pytest.raises(PlanError, match=r"fc\.weight"):
        loss_after_projection(nn.Sequential(nn.Linear(8, 8)), Plan({"fc.weight": ("4x1", 0.5)}), lambda _: 0.0)
