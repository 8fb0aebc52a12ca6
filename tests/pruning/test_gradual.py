"""Gradual magnitude pruning: the density follows the schedule, the dead stay dead, the end obeys the plan."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monstera.pruning import Gradual
from monstera.sparsity import Constant, Linear, Plan, kept_groups


def _model() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(8, 16)).square().mean().backward()
    optimizer.step()


def test_the_kept_groups_follow_the_schedule_and_the_dead_stay_dead() -> None:
    model, optimizer = _model()
    plan = Plan({"0.weight": ("4x1", 0.25), "2.weight": ("unstructured", 0.5)})
    pruner = Gradual(model, optimizer, plan, steps=20, schedule=Linear(0, 1, 0, 10), update_every=1)
    dead = {name: torch.zeros_like(mask) for name, mask in pruner.masks.items()}
    for step in range(1, 21):
        _step(model, optimizer)
        way = min(1, step / 10)
        assert int(pruner.masks["0.weight"].sum()) == 4 * kept_groups(1 - 0.75 * way, 64)
        assert int(pruner.masks["2.weight"].sum()) == kept_groups(1 - 0.5 * way, 128)
        for name, mask in pruner.masks.items():
            assert not (dead[name] & mask).any()
            assert not pruner.weights[name].detach()[~mask].any()
            dead[name] = ~mask
    assert pruner.finish().plan.ok


def test_the_groups_of_least_norm_die_first() -> None:
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.5, -4.0, 0.1, 2.0]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = Plan({"0.weight": ("unstructured", 0.5)})
    Gradual(model, optimizer, plan, steps=2, schedule=Linear(0, 1, 0, 2), update_every=1)
    model[0].weight.grad = torch.zeros(1, 4)
    optimizer.step()
    assert model[0].weight[0].tolist() == pytest.approx([0.5, -4.0, 0.0, 2.0])
    optimizer.step()
    assert model[0].weight[0].tolist() == pytest.approx([0.0, -4.0, 0.0, 2.0])


def test_masks_change_only_at_their_interval_and_when_the_end_is_reached() -> None:
    model, optimizer = _model()
    plan = Plan({"0.weight": ("4x1", 0.25)})
    pruner = Gradual(model, optimizer, plan, steps=20, schedule=Linear(0, 1, 0, 10), update_every=4)
    kept = []
    for _ in range(12):
        _step(model, optimizer)
        kept.append(int(pruner.masks["0.weight"].sum()))
    assert [i + 1 for i in range(1, 12) if kept[i] != kept[i - 1]] == [4, 8, 10]
    assert pruner.phase == "tune"


def test_an_n_of_m_pattern_holds_from_the_first_update() -> None:
    model, optimizer = _model()
    pruner = Gradual(model, optimizer, Plan({"0.weight": ("2:4",)}), steps=100, update_every=1)
    _step(model, optimizer)
    assert float(pruner.masks["0.weight"].float().mean()) == 0.5


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Linear(0, 1, 0, 200), "0.5 at step 100"),
        (Linear(0, 0.9, 0, 10), "0.9 at step 100"),
        (Linear(-1, 1, 0, 9), "-1 at step 0"),
    ],
)
def test_a_schedule_that_does_not_go_from_0_to_1_is_refused(schedule: Linear, message: str) -> None:
    model, optimizer = _model()
    with pytest.raises(ValueError, match=message):
        Gradual(model, optimizer, Plan({"0.weight": ("4x1", 0.25)}), steps=100, schedule=schedule)


def test_a_schedule_that_is_there_from_the_start_prunes_after_the_first_step() -> None:
    model, optimizer = _model()
    pruner = Gradual(model, optimizer, Plan({"0.weight": ("4x1", 0.25)}), steps=3, schedule=Constant(1.0))
    for _ in range(3):
        _step(model, optimizer)
        assert int(pruner.masks["0.weight"].sum()) == 64
    assert pruner.finish().plan.ok
