"""Group lasso and its reweighted form: the gradient against autograd, shrinking without a loss, and whose groups."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from monstera.pruning import GroupLasso, Pruner, Reweighted
from monstera.sparsity import Plan

PATTERNS = ["4x1", "filter", "bcr4x4", "2:4"]


def _conv(momentum: float = 0.0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 12, 3, bias=False), nn.Conv2d(12, 8, 1, bias=False))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)


def _plan(name: str) -> Plan:
    density = None if name == "2:4" else 0.5
    return Plan({"0.weight": (name, density), "1.weight": (name, density)})


def _still(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step without a loss: only the penalty moves the weights."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def _sums(name: str, weight: Tensor) -> list[Tensor]:
    """The squared norm of each group of a plain weight, each once, by the definition."""
    rows, columns, *_ = weight.shape
    square = weight.square()
    if name == "4x1":
        return [square.unflatten(0, (-1, 4)).sum(1).flatten()]
    if name == "filter":
        return [square.flatten(1).sum(1)]
    if name == "bcr4x4":
        cut = square.reshape(rows // 4, 4, columns // 4, -1)
        return [cut.sum(1).flatten(), cut.sum(3).flatten()]
    return [square.flatten()]


@pytest.mark.parametrize("name", PATTERNS)
def test_a_step_follows_the_gradient_of_the_sum_of_norms(name: str) -> None:
    model, optimizer = _conv()
    start = [p.detach().clone().requires_grad_() for p in model.parameters()]
    GroupLasso(model, optimizer, _plan(name), steps=10, strength=0.02, threshold=0.0, l1=0.003)
    _still(model, optimizer)
    for before, after in zip(start, model.parameters(), strict=True):
        loss = sum(0.02 * sums.sqrt().sum() for sums in _sums(name, before)) + 0.003 * before.abs().sum()
        loss.backward()
        torch.testing.assert_close(after.detach(), before.detach() - 0.1 * before.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("alpha", ["norm", "square"])
@pytest.mark.parametrize("penalty", ["norm", "square"])
def test_a_reweighted_step_follows_its_gradient_with_constant_factors(name: str, alpha: str, penalty: str) -> None:
    model, optimizer = _conv()
    start = [p.detach().clone().requires_grad_() for p in model.parameters()]
    Reweighted(model, optimizer, _plan(name), steps=10, strength=0.001, alpha=alpha, penalty=penalty, eps=0.01)
    _still(model, optimizer)
    for before, after in zip(start, model.parameters(), strict=True):
        loss = torch.zeros(())
        for sums in _sums(name, before):
            factor = 1 / (sums.detach() ** (1 if alpha == "square" else 0.5) + 0.01)
            loss = loss + 0.001 * (factor * (sums if penalty == "square" else sums.sqrt())).sum()
        loss.backward()
        torch.testing.assert_close(after.detach(), before.detach() - 0.1 * before.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [GroupLasso, Reweighted])
@pytest.mark.parametrize("name", PATTERNS)
def test_without_a_loss_the_norms_shrink(make: type[Pruner], name: str) -> None:
    model, optimizer = _conv()
    norms = [_sums(name, p.detach()) for p in model.parameters()]
    pruner = make(model, optimizer, _plan(name), steps=100, strength=1e-6)
    for _ in range(10):
        _still(model, optimizer)
    for before, parameter in zip(norms, model.parameters(), strict=True):
        for old, new in zip(before, _sums(name, parameter.detach()), strict=True):
            assert (new <= old + 1e-7).all(), "what is smaller than a step may overshoot by it"
            assert new.sum() < old.sum()
    assert pruner.phase == "regularise"


def test_the_proximal_form_is_the_closed_solution_and_makes_exact_zeros() -> None:
    model, optimizer = _conv()
    start = model[0].weight.detach().clone()
    plan = Plan({"0.weight": ("filter", 0.5)})
    norms = start.flatten(1).norm(dim=1)
    strength = float(norms.median()) / 0.1
    GroupLasso(model, optimizer, plan, steps=10, strength=strength, proximal=True)
    _still(model, optimizer)
    expected = start * (1 - 0.1 * strength / norms).clamp_min(0)[:, None, None, None]
    torch.testing.assert_close(model[0].weight.detach(), expected)
    assert 0 < int((model[0].weight.flatten(1).norm(dim=1) == 0).sum()) < 12


def test_small_weights_become_zero_by_the_threshold_and_large_ones_stay() -> None:
    model, optimizer = _conv()
    with torch.no_grad():
        model[0].weight[0] = 5e-5
    GroupLasso(model, optimizer, _plan("filter"), steps=10, strength=0.0)
    before = model[0].weight.detach()[1:].clone()
    _still(model, optimizer)
    assert not model[0].weight[0].any()
    assert torch.equal(model[0].weight[1:], before.masked_fill(before.abs() < 1e-4, 0))


def test_groups_of_other_patterns_are_penalised_together() -> None:
    model, optimizer = _conv()
    start = model[0].weight.detach().clone()
    GroupLasso(model, optimizer, _plan("4x1"), steps=9, strength=0.01, threshold=0.0, groups=["filter", "column"])
    _still(model, optimizer)
    rows, columns = start.flatten(1).norm(dim=1), start.norm(dim=0)
    expected = start - 0.1 * 0.01 * (start / rows[:, None, None, None] + start / columns)
    torch.testing.assert_close(model[0].weight.detach(), expected)


def test_factors_are_made_anew_at_fractions_of_the_regularising_steps_however_short_it_is() -> None:
    model, optimizer = _conv()
    pruner = Reweighted(model, optimizer, _plan("4x1"), steps=16, strength=1e-3, reweight_at=(0.5, 0.75))
    changes, last = [], pruner.factors["0.weight"][0]
    for step in range(1, 9):
        _still(model, optimizer)
        if step < 8 and not torch.equal(last, pruner.factors["0.weight"][0]):
            changes.append(step)
            last = pruner.factors["0.weight"][0]
    assert changes == [4, 6]
    assert pruner.phase == "tune"
    assert pruner.factors == {}


def test_layers_find_their_own_densities_within_one_budget() -> None:
    model, optimizer = _conv()
    with torch.no_grad():
        model[1].weight.mul_(10)
    plan = Plan({"0.weight": ("4x1@network", 0.25), "1.weight": ("4x1@network", 0.25)})
    pruner = Reweighted(model, optimizer, plan, steps=8, strength=1e-3)
    for _ in range(8):
        _still(model, optimizer)
    report = pruner.finish().plan
    kept = {row.name: row.achieved for row in report.weights}
    assert kept["1.weight"] > 2 * kept["0.weight"]
    assert report.density == pytest.approx(0.25, abs=0.01)


def test_groups_below_a_norm_give_each_layer_a_density_of_its_own() -> None:
    model, optimizer = _conv()
    with torch.no_grad():
        model[1].weight.mul_(0.6)
    plan = Plan({"0.weight": ("4x1", 1.0), "1.weight": ("4x1", 1.0)})
    pruner = Reweighted(model, optimizer, plan, steps=8, strength=1e-3, prune_below=0.17)
    for step in range(8):
        if step == 3:
            before = [p.detach().clone() for p in model.parameters()]
        _still(model, optimizer)
    report = pruner.finish().plan
    assert report.ok
    kept = [row.achieved for row in report.weights]
    assert 0 < kept[0] < kept[1] < 1
    # One more step of the penalty came before masks were fixed: less than a hundredth of the norm.
    for sums, row in zip([_sums("4x1", weight)[0] for weight in before], report.weights, strict=True):
        assert row.achieved == pytest.approx(float((sums.sqrt() >= 0.17).float().mean()), abs=0.02)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_layer_whose_groups_are_all_too_weak_keeps_its_strongest_group(name: str) -> None:
    model, optimizer = _conv()
    left = _plan(name).project(dict(model.named_parameters()))
    pruner = Reweighted(model, optimizer, _plan(name), steps=2, strength=0.0, prune_below=1e3)
    _still(model, optimizer)
    for before, parameter in zip(left.values(), model.parameters(), strict=True):
        weight = parameter.detach()
        if name == "bcr4x4":
            assert 0 < int(weight.count_nonzero()) < int(before.count_nonzero())
            continue
        (sums,) = _sums(name, before)
        (kept,) = _sums(name, weight)
        assert int((kept > 0).sum()) == 1
        assert int(kept.argmax()) == int(sums.argmax())
    assert pruner.finish().plan.ok


def test_where_groups_overlap_the_weaker_of_a_weights_row_and_column_decides() -> None:
    model, optimizer = _conv()
    with torch.no_grad():
        model[0].weight[5] *= 0.1
    plan = Plan({"0.weight": ("bcr4x4", 0.9)})
    weight = model[0].weight.detach().clone()
    left = plan.masks(model)["0.weight"]
    Reweighted(model, optimizer, plan, steps=2, strength=0.0, prune_below=0.12)
    _still(model, optimizer)
    cut = weight.square().reshape(3, 4, 2, 36)
    columns, rows = (cut.sum(along, keepdim=True).expand_as(cut).reshape(weight.shape).sqrt() for along in (1, 3))
    expected = left & (columns >= 0.12) & (rows >= 0.12)
    assert (left & (columns >= 0.12) & (rows < 0.12)).any()
    assert 0 < int(expected.sum()) < int(left.sum())
    assert torch.equal(model[0].weight.detach() != 0, expected)


def test_constrained_values_are_bound_among_what_a_norm_to_prune_below_has_left() -> None:
    model, optimizer = _conv()
    pruner = Reweighted(model, optimizer, _plan("4x1&int4"), steps=3, strength=0.0, prune_below=0.15)
    for _ in range(3):
        _still(model, optimizer)
        for name, ties in pruner.ties.items():
            weight, mask = pruner.weights[name].detach(), pruner.masks[name]
            assert not weight[~mask].any()
            assert not ties.factor[~mask].any()
    assert pruner.densities()["0.weight"] < 0.49
    assert pruner.finish().plan.ok


def test_a_norm_to_prune_below_only_removes_from_what_the_plan_leaves() -> None:
    masks = {}
    for norm in (0.0, 0.15):
        model, optimizer = _conv()
        pruner = Reweighted(model, optimizer, _plan("4x1"), steps=8, strength=0.0, prune_below=norm)
        for _ in range(8):
            _still(model, optimizer)
        masks[norm] = pruner.masks["0.weight"]
        assert pruner.finish().plan.ok
    assert not (masks[0.15] & ~masks[0.0]).any()
    assert masks[0.15].sum() < masks[0.0].sum()


def test_a_group_of_zeros_is_left_alone() -> None:
    model, optimizer = _conv()
    with torch.no_grad():
        model[0].weight[:4] = 0
    GroupLasso(model, optimizer, _plan("filter"), steps=10, strength=1.0)
    _still(model, optimizer)
    assert not model[0].weight[:4].any()
    assert model[0].weight.isfinite().all()


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (GroupLasso, {"strength": -1.0}),
        (GroupLasso, {"l1": -1.0}),
        (GroupLasso, {"threshold": float("nan")}),
        (GroupLasso, {"harden_at": 1.0}),
        (Reweighted, {"alpha": "cube"}),
        (Reweighted, {"penalty": "cube"}),
        (Reweighted, {"eps": 0.0}),
        (Reweighted, {"reweight_at": (0.5, 1.0)}),
        (Reweighted, {"groups": ["4y1"]}),
        (Reweighted, {"prune_below": -0.1}),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: type[Pruner], wrong: dict) -> None:
    model, optimizer = _conv()
    with pytest.raises(ValueError, match=r"expected|unknown pattern"):
        make(model, optimizer, _plan("4x1"), steps=10, **wrong)
    _still(model, optimizer)  # and no hook is left behind
    assert model[0].weight.all()
