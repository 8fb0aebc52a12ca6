"""SPP in training: what sits out is unharmed, the dead stay dead, budgets are exact, misfits are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monstera.pruning import SPP
from monstera.sparsity import Block, NOfM, Plan, PlanError, kept_groups, pattern

PLAN = Plan({"0.weight": ("4x1", 0.25), "2.weight": ("filter", 0.5)})


def _model(optimizer: str = "SGD") -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
    more = {"momentum": 0.9} if optimizer == "SGD" else {}
    return model, getattr(torch.optim, optimizer)(model.parameters(), lr=0.02, weight_decay=0.01, **more)


def _backward(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    (model(torch.randn(8, 16, generator=generator)) - torch.randn(8, 4, generator=generator)).square().mean().backward()


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, begin: int, end: int) -> None:
    for step in range(begin, end):
        _backward(model, optimizer, step)
        optimizer.step()


@pytest.mark.parametrize("optimizer_name", ["SGD", "AdamW"])
def test_what_sits_out_a_step_is_exactly_as_before_and_the_forward_pass_sees_the_rest(optimizer_name: str) -> None:
    model, optimizer = _model(optimizer_name)
    pruner = SPP(model, optimizer, PLAN, steps=80, update_every=1)
    sat_out = 0
    for step in range(30):
        masks, dense = dict(pruner.masks), {name: value.clone() for name, value in pruner.dense.items()}
        for name, weight in pruner.weights.items():
            assert torch.equal(weight.detach(), dense[name].masked_fill(~masks[name], 0))
        _backward(model, optimizer, step)
        optimizer.step()
        for name, mask in masks.items():
            assert not pruner.weights[name].grad[~mask].any(), "momentum takes no part of it either"
            assert torch.equal(pruner.dense[name][~mask], dense[name][~mask])
            assert (pruner.dense[name][mask] != dense[name][mask]).any()
            sat_out += int((~mask).sum())
    assert sat_out > 100, "nothing ever sat out, so nothing was checked"


def test_groups_are_ranked_by_their_sum_of_absolute_values() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        # By the sum of squares the second filter would be the least.
        model[0].weight.copy_(torch.tensor([[3.0, 0.0], [2.0, -2.0]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner = SPP(model, optimizer, Plan({"0.weight": ("filter", 0.5)}), steps=8, increment=0.5)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert pruner.probabilities["0.weight"].tolist() == [0.5, 0]


def test_masks_are_whole_groups_and_differ_from_step_to_step() -> None:
    model, optimizer = _model()
    pruner = SPP(model, optimizer, PLAN, steps=80, update_every=1)
    _train(model, optimizer, 0, 15)
    seen = set()
    for step in range(15, 18):
        _train(model, optimizer, step, step + 1)
        mask = pruner.masks["0.weight"].view(3, 4, 16)
        assert torch.equal(mask.any(1), mask.all(1))
        seen.add(tuple(mask.flatten().tolist()))
    assert len(seen) == 3
    assert not (pruner.probabilities["0.weight"] == 1).any()


def test_only_a_probability_of_one_is_permanent() -> None:
    model, optimizer = _model()
    pruner = SPP(model, optimizer, PLAN, steps=200, update_every=1, harden_at=0.9)
    dead, revived = torch.zeros(48, dtype=torch.bool), 0
    group = pattern("4x1").groups(model[0].weight.detach())
    was = pruner.masks["0.weight"]
    for step in range(200):
        _train(model, optimizer, step, step + 1)
        now = pruner.probabilities["0.weight"] == 1
        assert bool(now[dead].all())
        assert not pruner.masks["0.weight"][dead[group]].any()
        revived += int((pruner.masks["0.weight"] & ~was).sum())
        dead, was = now, pruner.masks["0.weight"]
    assert revived > 0
    assert int(dead.sum()) == 48 - kept_groups(0.25, 48)


def test_layers_that_lost_enough_stop_and_all_others_go_on() -> None:
    model, optimizer = _model()
    # One of four filters is dead long before 36 of 48 blocks are.
    plan = PLAN | {"2.weight": ("filter", 0.75)}
    pruner = SPP(model, optimizer, plan, steps=400, update_every=1, harden_at=0.9)
    _train(model, optimizer, 0, 35)
    assert pruner.phase == "sample"
    assert sorted(pruner.probabilities["2.weight"].tolist()) == [0, 0, 0, 1]
    assert pruner.masks["2.weight"].any(1).tolist().count(True) == 3
    _train(model, optimizer, 35, 400)
    assert pruner.phase == "tune"
    assert pruner.history[-1].to_go == 0


def test_when_all_are_dead_that_shall_be_masks_are_fixed_before_the_deadline() -> None:
    model, optimizer = _model()
    plan = Plan({"2.weight": ("filter", 0.5)})
    pruner = SPP(model, optimizer, plan, steps=400, update_every=1, harden_at=0.9)
    _train(model, optimizer, 0, 200)
    assert pruner.phase == "tune"
    assert pruner.history[-1].step < 200
    assert pruner.history[-1].decided == 0
    assert pruner.dense == {}
    masks = pruner.masks["2.weight"]
    _train(model, optimizer, 200, 210)
    assert torch.equal(masks, pruner.masks["2.weight"])
    assert not model[2].weight[~masks].any()


def test_at_the_deadline_the_likeliest_groups_go_and_the_history_counts_them() -> None:
    model, optimizer = _model()
    pruner = SPP(model, optimizer, PLAN, steps=50, update_every=1)
    _train(model, optimizer, 0, 24)
    _backward(model, optimizer, 24)
    probability = pruner.probabilities["0.weight"].clone()
    optimizer.step()
    assert pruner.phase == "tune"
    pruned = pruner.probabilities["0.weight"] == 1
    assert int(pruned.sum()) == 36
    # One more update came before the deadline: it lifts nobody above who was far ahead.
    assert float(probability[pruned].min()) >= float(probability[~pruned].max()) - 0.05
    assert pruner.history[-1].decided > 0
    assert str(pruner.progress()).endswith("38 groups dead, 0 to go")


def test_a_network_wide_budget_is_shared_by_all_layers() -> None:
    model, optimizer = _model()
    with torch.no_grad():
        model[2].weight.mul_(10)
    plan = Plan(dict.fromkeys(["0.weight", "2.weight"], ("4x1@network", 0.5)))
    pruner = SPP(model, optimizer, plan, steps=120, update_every=1)
    _train(model, optimizer, 0, 120)
    assert pruner.finish().plan.ok
    kept = [int(pattern("4x1").alive(weight.detach()).sum()) for weight in pruner.weights.values()]
    assert sum(kept) == kept_groups(0.5, 48 + 12)
    assert kept[1] > 6


@pytest.mark.parametrize("name", ["unstructured", "channel", "column", "5x3", "1x4"])
def test_any_pattern_of_disjoint_groups_is_served(name: str) -> None:
    model, optimizer = _model()
    plan = Plan({"0.weight": (name, 0.4)})
    pruner = SPP(model, optimizer, plan, steps=20, increment=0.5)
    _train(model, optimizer, 0, 20)
    alive = pattern(name).alive(model[0].weight.detach())
    assert int(alive.sum()) == kept_groups(0.4, alive.numel())
    assert pruner.finish().plan.ok


def test_gates_and_convolution_groups_are_cut_like_everywhere() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"cell": nn.GRUCell(6, 8), "conv": nn.Conv2d(8, 8, 3, groups=2)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = Plan({"cell.weight_ih": ("4x1", 0.5), "conv.weight": ("column", 0.25)})
    pruner = SPP(model, optimizer, plan, steps=8, increment=1.0)
    for _ in range(8):
        optimizer.zero_grad()
        (model["cell"](torch.ones(2, 6)).sum() + model["conv"](torch.ones(1, 8, 3, 3)).sum()).backward()
        optimizer.step()
    assert pruner.finish().plan.ok
    # Columns of each convolution group by itself.
    assert int(model["conv"].weight.detach().view(2, 4, 4, 9).ne(0).any(1).sum()) == kept_groups(0.25, 72)


def test_the_seed_decides_the_masks_and_nothing_else_does() -> None:
    def masks(seed: int, noise: int) -> list[bool]:
        model, optimizer = _model()
        pruner = SPP(model, optimizer, PLAN, steps=80, update_every=1, seed=seed)
        torch.manual_seed(noise)
        _train(model, optimizer, 0, 18)
        return pruner.masks["0.weight"].flatten().tolist()

    assert masks(3, 0) == masks(3, 1)
    assert masks(3, 0) != masks(4, 0)


def test_by_default_two_hundred_updates_fit_and_the_papers_interval_is_the_longest() -> None:
    model, optimizer = _model()
    every = {steps: SPP(model, optimizer, PLAN, steps=steps).update_every for steps in (100, 4000, 200_000)}
    assert every == {100: 1, 4000: 10, 200_000: 180}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"increment": 0.0}, "increment"),
        ({"increment": 1.5}, "increment"),
        ({"increment": float("nan")}, "increment"),
        ({"centre": 1.0}, "centre"),
        ({"harden_at": 1.0}, "harden_at"),
        ({"update_every": 0}, "update_every"),
        ({"update_every": 3}, r"steps: 13 updates fit before masks are fixed at step 40.* 1 / increment = 20"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict, told: str) -> None:
    model, optimizer = _model()
    with pytest.raises(ValueError, match=told):
        SPP(model, optimizer, PLAN, steps=80, **wrong)
    assert not optimizer._optimizer_step_pre_hooks


def test_patterns_that_cannot_be_served_are_refused_all_at_once_and_say_why() -> None:
    model, optimizer = _model()
    plan = Plan({"0.weight": ("bcr4x4", 0.25), "2.weight": ("2:4",)})
    with pytest.raises(PlanError) as found:
        SPP(model, optimizer, plan, steps=80)
    first, second = found.value.problems
    assert first.startswith("0.weight: SPP needs a probability for each group: bcr4x4 has no disjoint groups")
    assert second.startswith("2.weight: SPP ranks all groups of a layer or network for one budget, and 2:4 gives every")
    assert not optimizer._optimizer_step_pre_hooks
    with pytest.raises(PlanError, match="4x1@2:4 gives every 2:4 its own"):
        SPP(model, optimizer, Plan({"0.weight": (Block(4, 1, scope=NOfM(2, 4)),)}), steps=80)


@pytest.mark.parametrize("name", ["unify4x1u0.9", "4x1&int4", "4x1@network&unify2x1"])
def test_values_are_tied_from_hardening_on(name: str) -> None:
    model, optimizer = _model()
    plan = Plan({"0.weight": (name, 0.25)})
    pruner = SPP(model, optimizer, plan, steps=80, update_every=1)
    _train(model, optimizer, 0, 40)
    assert pruner.phase == "tune"
    for step in range(40, 80):
        assert plan.verify(model).ok
        _train(model, optimizer, step, step + 1)
    pruner.finish()


def test_patterns_that_a_network_mines_from_its_weights_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(PlanError, match="patterns4of8 has no disjoint groups that live or die each by itself"):
        SPP(model, optimizer, Plan({"0.weight": ("patterns4of8", 0.25)}), steps=80)


def test_weights_that_are_no_numbers_cannot_be_ranked_and_are_named() -> None:
    model, optimizer = _model()
    SPP(model, optimizer, PLAN, steps=80)
    _backward(model, optimizer, 0)
    model[2].weight.grad[0] = float("nan")
    with pytest.raises(PlanError, match=r"2\.weight: groups of NaN weights cannot be ranked"):
        optimizer.step()
