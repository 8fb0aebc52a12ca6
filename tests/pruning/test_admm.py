"""ADMM: the equations by hand, its stages, and what it does to a real network."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from monstera.pruning import ADMM
from monstera.sparsity import Plan

LR, RHO = 1.0, 0.5


def _linear(*weights: float) -> tuple[nn.Module, torch.optim.Optimizer, Plan]:
    """One row of weights, half of which shall die one by one; plain gradient descent with learning rate 1."""
    model = nn.Sequential(nn.Linear(len(weights), 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([weights]))
    return model, torch.optim.SGD(model.parameters(), lr=LR), Plan({"0.weight": ("unstructured", 0.5)})


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, *grad: float) -> list[float]:
    """One optimizer step under a loss whose gradient is `grad`, zero by default; returns the weights."""
    weight = model[0].weight
    weight.grad = torch.tensor([grad], dtype=torch.float32) if grad else torch.zeros_like(weight)
    optimizer.step()
    return weight[0].tolist()


def _values(tensors: dict[str, torch.Tensor]) -> list[float]:
    return tensors["0.weight"][0].tolist()


def test_the_first_steps_are_those_worked_by_hand() -> None:
    model, optimizer, plan = _linear(4, 3, 2, 1)
    pruner = ADMM(model, optimizer, plan, steps=20, rho=[RHO], update_every=1, harden_at=0.5)
    assert (_values(pruner.z), _values(pruner.u)) == ([4, 3, 0, 0], [0, 0, 0, 0])
    # W - rho (W - Z + U) = (4, 3, 2, 1) - 0.5 (0, 0, 2, 1); then Z = projection(W + U), U = U + W - Z
    assert _step(model, optimizer) == [4, 3, 1, 0.5]
    assert (_values(pruner.z), _values(pruner.u)) == ([4, 3, 0, 0], [0, 0, 1, 0.5])
    # (4, 3, 1, 0.5) - 0.5 ((0, 0, 1, 0.5) + (0, 0, 1, 0.5))
    assert _step(model, optimizer) == [4, 3, 0, 0]
    assert _values(pruner.u) == [0, 0, 1, 0.5]
    # The loss pulls the last weight up: (4, 3, 0, 0) - 0.5 (0, 0, 1, 0.5) + (0, 0, 0, 5) = (4, 3, -0.5, 4.75)
    assert _step(model, optimizer, 0, 0, 0, -5) == [4, 3, -0.5, 4.75]
    # W + U = (4, 3, 0.5, 5.25): now the first and the last survive.
    assert (_values(pruner.z), _values(pruner.u)) == ([4, 0, 0, 5.25], [0, 3, 0.5, 0])


def test_residuals_are_those_worked_by_hand() -> None:
    model, optimizer, plan = _linear(4, 3, 2, 1)
    pruner = ADMM(model, optimizer, plan, steps=20, rho=[RHO], update_every=1, harden_at=0.5)
    _step(model, optimizer)
    size = (16 + 9 + 1 + 0.25) ** 0.5
    first = pruner.history[0]
    assert (first.step, first.rho, first.dual) == (1, RHO, 0)
    assert first.primal == pytest.approx((1 + 0.25) ** 0.5 / size)
    assert pruner.progress().residuals == first


def test_zero_only_leaves_survivors_alone_and_pulls_the_rest_by_w_plus_u() -> None:
    model, optimizer, plan = _linear(4, 3, 2, 1)
    pruner = ADMM(model, optimizer, plan, steps=20, rho=[RHO], update_every=1, harden_at=0.5, zero_only=True)
    # The loss moves a survivor; the full penalty would pull it back towards Z at the next step.
    assert _step(model, optimizer, -2, 0, 0, 0) == [6, 3, 1, 0.5]
    pruner.z["0.weight"][0, 0] = 4.0
    assert _step(model, optimizer) == [6, 3, 0, 0]


@given(
    weights=st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=9),
    seed=st.integers(0, 99),
    rho=st.sampled_from([1e-3, 0.1, 2.0]),
)
@settings(max_examples=50)
def test_the_added_gradient_is_that_of_the_squared_penalty(weights: list[float], seed: int, rho: float) -> None:
    model, optimizer, plan = _linear(*weights)
    pruner = ADMM(model, optimizer, plan, steps=20, rho=[rho], harden_at=0.5)
    pruner.u["0.weight"] = torch.randn(1, len(weights), generator=torch.Generator().manual_seed(seed))
    weight = model[0].weight
    penalty = rho / 2 * (weight - pruner.z["0.weight"] + pruner.u["0.weight"]).square().sum()
    (expected,) = torch.autograd.grad(penalty, weight)
    before = weight.detach().clone()
    _step(model, optimizer)
    assert torch.allclose(weight.detach(), before - LR * expected, atol=1e-6)


def test_a_new_rho_starts_from_u_zero_and_the_projection_of_w() -> None:
    model, optimizer, plan = _linear(4, 3, 2, 1)
    pruner = ADMM(model, optimizer, plan, steps=8, rho=[0.5, 0.25], update_every=1, harden_at=0.5)
    assert pruner.timeline.rounds == ((0, 2, 4),)
    _step(model, optimizer)
    assert (pruner.rho, pruner.phase) == (0.5, "regularise")
    assert any(_values(pruner.u))
    weights = _step(model, optimizer, 0, 0, -9, 0)
    assert pruner.rho == 0.25
    assert _values(pruner.u) == [0, 0, 0, 0]
    assert _values(pruner.z) == [4, 0, weights[2], 0]


def test_z_and_u_wait_for_their_interval() -> None:
    model, optimizer, plan = _linear(4, 3, 2, 1)
    pruner = ADMM(model, optimizer, plan, steps=20, rho=[RHO], update_every=3, harden_at=0.5)
    for _ in range(9):
        _step(model, optimizer)
    assert [residuals.step for residuals in pruner.history] == [3, 6, 9]


def test_after_hardening_dead_weights_stay_exact_zeros_and_the_penalty_is_gone() -> None:
    model, optimizer, plan = _linear(4, 3, 2, 1)
    pruner = ADMM(model, optimizer, plan, steps=4, rho=[1e-9], harden_at=0.5)
    _step(model, optimizer)
    assert _step(model, optimizer) == [4, 3, 0, 0]
    assert (pruner.phase, pruner.rho) == ("tune", 0)
    assert _step(model, optimizer, 1, -1, 7, 7) == [3, 4, 0, 0]
    for _ in range(5):
        assert _step(model, optimizer, 0, 0, 7, 7) == [3, 4, 0, 0]
    report = pruner.finish()
    assert report.plan.ok
    assert report.plan.density == 0.5


@pytest.mark.parametrize("harden_at", [0.05, 0.3, 0.999])
def test_stages_fill_the_time_until_hardening(harden_at: float) -> None:
    model, optimizer, plan = _linear(4, 3, 2, 1)
    line = ADMM(model, optimizer, plan, steps=1000, harden_at=harden_at).timeline
    (bounds,) = line.rounds
    assert bounds[0] == 0
    assert line.harden_step(0) == bounds[-1] == round(1000 * harden_at)
    lengths = [end - start for start, end in pairwise(bounds)]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rho": []}, "rho: expected one or more positive"),
        ({"rho": [1.0, 0.0]}, "rho: expected one or more positive"),
        ({"harden_at": 0.0}, "harden_at: expected a fraction"),
        ({"harden_at": 1.0}, "harden_at: expected a fraction"),
        ({"update_every": 0}, "update_every: expected at least 1"),
        ({"steps": 0}, "at least 1|at least one step"),
        ({"steps": 4}, "each stage needs at least one step"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict, message: str) -> None:
    model, optimizer, plan = _linear(4, 3, 2, 1)
    with pytest.raises(ValueError, match=message):
        ADMM(model, optimizer, plan, **{"steps": 100, **fields})
    assert not optimizer._optimizer_step_pre_hooks
