"""Pivoting keeps the function and never keeps less; on trained weights it keeps as much more as the page says."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from devices import ON_GPU
from monstera.pruning import Gradual
from monstera.sparsity import AttachedError, Plan, PlanError, pivot, pivoting, shrink, swaps
from monstera.zoo import load_cifar_resnet_state, network, randomize_
from monstera.zoo.data import DataMissingError, data_root

# What docs/methods/pivoting.md says: percent of the squared magnitude that is kept as it stood, and pivoted.
KEPT = {
    ("4x1", 0.25): (55.75, 58.01),
    ("4x4", 0.25): (42.56, 46.97),
    ("8x1", 0.25): (48.62, 50.87),
    ("8x4", 0.25): (38.76, 43.35),
    ("4x1", 0.125): (36.13, 38.52),
    ("4x1@network", 0.25): (60.24, 61.96),
    ("2:4", 0.5): (87.97, 88.85),
    ("1:4", 0.25): (63.86, 65.58),
    ("4x1@2:4", 0.5): (75.14, 76.33),
}


def assert_same(model: nn.Module, before: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(model(x), before(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("pattern", "density"), list(KEPT)[:2])
def test_trained_blocks_keep_more(pattern: str, density: float) -> None:
    check_trained(pattern, density)


@pytest.mark.full
@pytest.mark.parametrize(("pattern", "density"), list(KEPT)[2:])
def test_trained_blocks_keep_more_for_other_patterns(pattern: str, density: float) -> None:
    check_trained(pattern, density)


def check_trained(pattern: str, density: float) -> None:
    try:
        root = data_root()
    except DataMissingError as error:
        pytest.skip(str(error))
    model = network("resnet20").eval()
    model.load_state_dict(load_cifar_resnet_state(root / "cifar_resnets" / "resnet20-12fca82f.th"))
    model.double()
    before, x = copy.deepcopy(model), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    report = pivot(model, x, Plan.uniform(model, pattern, density))
    assert (100 * report.before, 100 * report.after) == pytest.approx(KEPT[pattern, density], abs=0.1)
    assert_same(model, before, x)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(
        ["2x1", "4x1", "1x2", "2x2", "3x2", "2x2x9", "4x1@network", "2x1@1:2", "bcr4x4", "unify2x1", "2x2&int4"]
    ),
    st.sampled_from([0.1, 0.25, 0.5]),
    st.integers(0, 99),
)
def test_the_function_stays_and_what_is_kept_never_falls(pattern: str, density: float, seed: int) -> None:
    model = network("digits_cnn", width=6)
    x = torch.randn(2, 1, 8, 8)
    randomize_(model, x, seed=seed).double().eval()
    before = copy.deepcopy(model)
    plan = Plan.uniform(model, pattern, 0.5 if ":" in pattern else density)
    report = pivot(model, x.double(), plan)
    assert report.after >= report.before
    assert report.after == pytest.approx(kept(model, plan))
    assert report.before == pytest.approx(kept(before, plan))
    assert_same(model, before, x.double())


def kept(model: nn.Module, plan: Plan) -> float:
    masks, weights = plan.masks(model), plan.weights(model)
    squares = {name: weight.detach().square() for name, weight in weights.items()}
    return float(sum(squares[n][masks[n]].sum() for n in plan) / sum(square.sum() for square in squares.values()))


@pytest.mark.parametrize(("pattern", "density"), [("4x1&int4", 0.25), ("unify4x1", 0.25), ("2:4&int4", 0.5)])
def test_constraints_on_values_are_pivoted_by_their_holes(pattern: str, density: float) -> None:
    x = torch.randn(2, 1, 8, 8)
    model = randomize_(network("digits_cnn", width=16), x).bfloat16().eval()
    before, plan = copy.deepcopy(model), Plan.uniform(model, pattern, density)
    report = pivot(model, x.bfloat16(), plan)
    assert report.after > report.before + 0.005
    assert_same(model.double(), before.double(), x.double())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_a_model_is_pivoted_and_shrunk_where_it_lies(device: str) -> None:
    x = torch.randn(2, 1, 8, 8)
    model = randomize_(network("digits_cnn", width=8), x).double().eval()
    model.conv2.weight.data[3] = 0
    model.bn2.bias.data[3] = -9
    model, x = model.to(device), x.double().to(device)
    before = copy.deepcopy(model)
    assert pivot(model, x, Plan.uniform(model, "4x1", 0.25)).orders
    assert_same(model, before, x)
    smaller, _ = shrink(model, x)
    assert smaller.bn2.num_features == 7
    assert_same(smaller, before, x)


def test_swaps_after_which_less_is_kept_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network("digits_cnn", width=8), torch.randn(2, 1, 8, 8)
    randomize_(model, x)
    plan = Plan.uniform(model, "4x1", 0.25)
    assert pivot(model, x, plan).orders
    pivoted = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(pivoting, "order_by_swaps", lambda _sides, channels, random: random.permutation(channels))
    report = pivot(model, x, plan)
    assert not report.orders
    assert report.after == report.before
    assert all(torch.equal(value, pivoted[name]) for name, value in model.state_dict().items())


def test_attention_is_pivoted_within_its_heads() -> None:
    model = network("bert_tiny")
    x = torch.randn(2, 5, 48)
    randomize_(model, x).double().eval()
    before = copy.deepcopy(model)
    report = pivot(model, x.double(), Plan.uniform(model, "4x1", 0.25, skip=()))
    assert report.after > report.before + 0.005
    assert any("query" in name for name in report.orders)
    assert any("value" in name for name in report.orders)
    assert_same(model, before, x.double())


def test_groups_too_large_to_weigh_every_swap_are_pivoted_by_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swaps, "_CHANNELS", 16)
    monkeypatch.setattr(swaps, "_BLOCKS", 20)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 50), nn.ReLU(), nn.Linear(50, 2)).double()
    before, x = copy.deepcopy(model), torch.randn(3, 8, dtype=torch.float64)
    report = pivot(model, x, Plan({"2.weight": ("4x1", 0.25)}), sweeps=1)
    assert report.after > report.before
    assert_same(model, before, x)


def test_a_plan_that_does_not_fit_is_refused_before_anything_moves() -> None:
    model = network("digits_cnn", width=4)
    with pytest.raises(PlanError, match="conv9"):
        pivot(model, torch.randn(1, 1, 8, 8), Plan({"conv9.weight": ("4x1", 0.5)}))


def test_a_model_with_a_pruner_is_refused() -> None:
    model = network("digits_cnn", width=4)
    plan = Plan({"conv2.weight": ("4x1", 0.5)})
    pruner = Gradual(model, torch.optim.SGD(model.parameters(), 0.1), plan, steps=1)
    with pytest.raises(AttachedError, match="before pruner and optimizer are made"):
        pivot(model, torch.randn(1, 1, 8, 8), plan)
    pruner.finish()
    pivot(model, torch.randn(1, 1, 8, 8), plan)
