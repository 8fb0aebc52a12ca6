"""Reweighted regularisation by hand: both forms of alpha, all three published steps, and norms that shrink."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monstera.pruning import Reweighted
from monstera.sparsity import Plan

# Two filters of norms 5 and 1.
FILTERS = [[3.0, 4.0], [0.6, 0.8]]


def _attached(lr: float = 1.0, **options: object) -> tuple[nn.Linear, torch.optim.Optimizer, Reweighted]:
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(FILTERS))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    pruner = Reweighted(model, optimizer, Plan({"0.weight": ("filter", 0.5)}), **{"steps": 20, **options})
    return model[0], optimizer, pruner


def _still(layer: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    """A step of a loss that is zero."""
    layer.weight.grad = torch.zeros_like(layer.weight)
    optimizer.step()


def _near(*rows: list[float]) -> list:
    return [pytest.approx(row, abs=1e-6) for row in rows]


@pytest.mark.parametrize(("alpha", "factors"), [("norm", [1 / 6, 1 / 2]), ("square", [1 / 26, 1 / 2])])
def test_alpha_of_norms_5_and_1_with_an_eps_of_1(alpha: str, factors: list[float]) -> None:
    _, _, pruner = _attached(alpha=alpha, eps=1.0)
    (spread,) = pruner.factors["0.weight"]
    assert spread.tolist() == _near(*[[factor] * 2 for factor in factors])


def test_a_step_of_the_form_for_language_models() -> None:
    # 0.3 / 6 (0.6, 0.8) and 0.3 / 2 (0.6, 0.8).
    layer, optimizer, _ = _attached(eps=1.0, strength=0.3)
    _still(layer, optimizer)
    assert layer.weight.tolist() == _near([3 - 0.03, 4 - 0.04], [0.6 - 0.09, 0.8 - 0.12])


def test_a_step_of_the_form_in_the_code_for_3d_networks() -> None:
    # 0.26 / 26 (0.6, 0.8) and 0.26 / 2 (0.6, 0.8).
    layer, optimizer, _ = _attached(alpha="square", eps=1.0, strength=0.26)
    _still(layer, optimizer)
    assert layer.weight.tolist() == _near([3 - 0.006, 4 - 0.008], [0.6 - 0.078, 0.8 - 0.104])


def test_a_step_of_the_form_in_the_paper_on_3d_networks() -> None:
    # 2 * 0.5 / 26 and 2 * 0.5 / 2 of the weights themselves.
    layer, optimizer, _ = _attached(alpha="square", penalty="square", eps=1.0, strength=0.5)
    _still(layer, optimizer)
    assert layer.weight.tolist() == _near([3 * 25 / 26, 4 * 25 / 26], [0.3, 0.4])


def test_alpha_is_constant_between_updates_and_of_the_shrunken_norms_after() -> None:
    # Norms 5 and 1 fall by 0.6 / 6 and 0.6 / 2 a step; after two: 4.8 and 0.4.
    layer, optimizer, pruner = _attached(eps=1.0, strength=0.6, steps=8, reweight_at=(0.5,))
    for _ in range(2):
        _still(layer, optimizer)
    assert layer.weight.detach().norm(dim=1).tolist() == pytest.approx([4.8, 0.4], rel=1e-5)
    (spread,) = pruner.factors["0.weight"]
    assert spread[:, 0].tolist() == pytest.approx([1 / 5.8, 1 / 1.4], rel=1e-5)
    _still(layer, optimizer)
    # 0.6 / 1.4 is more than is left of the second: the step overshoots, and is of the size that it should have.
    assert layer.weight.detach().norm(dim=1).tolist() == pytest.approx([4.8 - 0.6 / 5.8, 0.6 / 1.4 - 0.4], rel=1e-5)


@pytest.mark.parametrize(("alpha", "penalty"), [("norm", "norm"), ("square", "norm"), ("square", "square")])
def test_with_a_loss_of_zero_all_norms_shrink_and_the_weaker_shrink_more(alpha: str, penalty: str) -> None:
    layer, optimizer, _ = _attached(lr=0.1, alpha=alpha, penalty=penalty, eps=0.1, strength=0.05, steps=100)
    before = layer.weight.detach().norm(dim=1)
    for _ in range(30):
        _still(layer, optimizer)
        now = layer.weight.detach().norm(dim=1)
        assert bool((now < before).all())
        before = now
    assert float(before[1]) / 1 < float(before[0]) / 5


def test_a_threshold_on_norms_reads_each_layers_density_off_its_weights() -> None:
    """Two layers of four filters; after the penalty's one step 3 of the first and 1 of the second reach a norm of 1."""
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 4, bias=False))
    norms = [[5.0, 1.3, 1.25, 1.0], [2.0, 1.01, 0.5, 0.1]]
    with torch.no_grad():
        for layer, lengths in zip(model, norms, strict=True):
            layer.weight.zero_()[:, 0] = torch.tensor(lengths)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    plan = Plan(dict.fromkeys(["0.weight", "1.weight"], ("filter", 1.0)))
    pruner = Reweighted(model, optimizer, plan, steps=2, strength=0.2, eps=1.0, prune_below=1.0)
    for layer in model:
        layer.weight.grad = torch.zeros_like(layer.weight)
    # 0.2 / (norm + 1) off each: 1.25 - 0.089 stays above 1, and 1.01 - 0.0995 does not.
    optimizer.step()
    assert pruner.phase == "tune"
    assert [row.achieved for row in pruner.finish().plan.weights] == [0.75, 0.25]


def test_rounds_make_factors_anew_keep_former_zeros_and_end_with_the_plan() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = Plan({"0.weight": ("filter", 0.25)})
    pruner = Reweighted(model, optimizer, plan, steps=40, strength=0.01, rounds=2, reweight_at=(0.5,))
    assert pruner.timeline.rounds == ((0, 10), (20, 30))
    assert pruner.reweight_steps == [5, 20, 25]
    dead, kept = torch.zeros(16, 8, dtype=torch.bool), []
    for step in range(40):
        assert pruner.phase == ("regularise" if step % 20 < 10 else "tune")
        before = model[0].weight.detach().clone()
        _still(model[0], optimizer)
        weight = model[0].weight.detach()
        assert not weight[dead].any()
        moved = not torch.equal(weight, before)
        assert moved == (step % 20 < 10), "only the penalty, and hardening behind it, moves weights here"
        dead = ~pruner.masks["0.weight"]
        kept.append(int((~dead).any(1).sum()))
    # Half of 16 filters, then half of these.
    assert kept == [16] * 9 + [8] * 20 + [4] * 11
    assert pruner.finish().plan.ok


def test_more_rounds_than_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="each stage needs at least one step before hardening"):
        _attached(steps=4, rounds=4)
    with pytest.raises(ValueError, match="rounds: expected one or more, got 0"):
        _attached(rounds=0)
