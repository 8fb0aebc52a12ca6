"""Copies with the holes of a plan."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from monstera.pruning import prune
from monstera.sparsity import Plan, PlanError, projected_copy


class Attentive(nn.Module):
    """Stacked projections, a grouped convolution and a turned one: weights that hold parts and groups."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.grouped = nn.Conv2d(12, 16, 3, groups=2)
        self.turned = nn.ConvTranspose2d(8, 12, 3, groups=2)


PLAN = Plan(
    {
        "attention.in_proj_weight": ("4x1", 0.3),
        "grouped.weight": ("bcr3x3", 0.4),
        "turned.weight": ("4x1", 0.5),
        "attention.out_proj.weight": ("unify4x1", 0.5),
    }
)


@pytest.fixture
def model() -> Attentive:
    torch.manual_seed(0)
    return Attentive()


def state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_copy_is_the_model_pruned_at_once_where_weights_hold_parts_groups_and_ties(model: Attentive) -> None:
    pruned = copy.deepcopy(model)
    prune(pruned, PLAN)
    made = projected_copy(model, PLAN)
    assert same(made.state_dict(), pruned.state_dict())
    assert PLAN.verify(made).ok
    blind = PLAN.project(PLAN.weights(model))
    assert any(not torch.equal(blind[name], made.get_parameter(name)) for name in PLAN)


def test_the_model_is_left_alone_and_shares_nothing_with_the_copy(model: Attentive) -> None:
    before = state(model)
    made = projected_copy(model, PLAN)
    for parameter in made.parameters():
        parameter.detach().fill_(7)
    assert same(model.state_dict(), before)


def test_weights_that_are_not_planned_stay(model: Attentive) -> None:
    made = projected_copy(model, Plan({"grouped.weight": ("unstructured", 0.5)}))
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, made.state_dict()[name])] == [
        "grouped.weight"
    ]


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_gradients_are_those_of_the_model(model: Attentive, training: bool) -> None:
    model.train(training)
    model.turned.train(not training)
    model.grouped.requires_grad_(False)
    made = projected_copy(model, PLAN)
    assert [m.training for m in made.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in made.parameters()] == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in made.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_copy_keeps_type_and_memory_format(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3)).to(dtype).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    weight = projected_copy(model, Plan({"0.weight": ("4x1", 0.25)})).get_parameter("0.weight")
    assert weight.dtype == dtype
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.count_nonzero() == weight.numel() // 4


def test_an_empty_plan_gives_a_plain_copy(model: Attentive) -> None:
    made = projected_copy(model, Plan())
    assert made is not model
    assert same(made.state_dict(), model.state_dict())


def test_a_plan_that_does_not_fit_and_a_weight_that_is_nan_are_told(model: Attentive) -> None:
    with pytest.raises(PlanError, match=r"grouped\.bias"):
        projected_copy(model, Plan({"grouped.bias": ("unstructured", 0.5)}))
    with torch.no_grad():
        model.turned.weight[0, 0] = torch.nan
    with pytest.raises(PlanError, match="NaN"):
        projected_copy(model, PLAN)
