"""ADMM (Zhang et al. 2018) on problems small enough to follow: equations for any constraint, stopping, rounds, rho."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from monstera.pruning import ADMM
from monstera.sparsity import Plan, pattern


def _problem(name: str, density: float | None, size: int = 12, seed: int = 0) -> tuple[nn.Module, Plan, Tensor, Tensor]:
    """Fit a target under a constraint: loss 1/2 sum curvature * (W - target)^2, all of it known."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(size, 4, bias=False)
    target = torch.randn(4, size, generator=generator)
    with torch.no_grad():
        model.weight.copy_(target)
    return model, Plan({"weight": (name, density)}), target, 0.5 + torch.rand(4, size, generator=generator)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, target: Tensor, curvature: Tensor, steps: int) -> None:
    for _ in range(steps):
        model.weight.grad = curvature * (model.weight.detach() - target)
        optimizer.step()


@pytest.mark.parametrize(
    ("name", "density"),
    [("4x1", 0.5), ("2:4", None), ("unify4x1", 0.5), ("unify4x1u0.7", 0.5), ("4x1&int4", 0.5), ("int4", None)],
)
def test_w_z_and_u_go_the_way_of_the_equations_whatever_the_constraint(name: str, density: float | None) -> None:
    model, plan, target, curvature = _problem(name, density)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    pruner = ADMM(model, optimizer, plan, steps=40, rho=[0.7], update_every=4)
    entry = plan["weight"]
    w = target.clone()
    z, u = entry.pattern.project(w, entry.density), torch.zeros_like(w)
    for step in range(1, 20):
        w = w - 0.2 * (curvature * (w - target) + 0.7 * (w - z + u))
        if step % 4 == 0:
            z = entry.pattern.project(w + u, entry.density)
            u = u + w - z
        _train(model, optimizer, target, curvature, 1)
        assert torch.allclose(model.weight, w, atol=1e-5)
        assert torch.allclose(pruner.z["weight"], z, atol=1e-4)
        assert torch.allclose(pruner.u["weight"], u, atol=1e-4)
    _train(model, optimizer, target, curvature, 1)
    assert torch.allclose(
        model.weight,
        entry.pattern.project(w - 0.2 * (curvature * (w - target) + 0.7 * (w - z + u)), entry.density),
        atol=1e-4,
    )


@pytest.mark.parametrize(("name", "density"), [("4x1", 0.5), ("unify4x1", 0.5), ("4x1&int4", 0.5), ("int4", None)])
def test_where_rho_outweighs_the_loss_both_residuals_fall_and_the_answer_is_no_worse_than_projecting(
    name: str, density: float | None
) -> None:
    model, plan, target, curvature = _problem(name, density)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = ADMM(model, optimizer, plan, steps=1200, rho=[3.0], update_every=30)
    _train(model, optimizer, target, curvature, 599)
    last, first = pruner.history[-1], pruner.history[0]
    assert last.primal < 1e-3
    assert last.primal < first.primal
    assert last.dual < 1e-3
    # At a fixed point the dual variable balances the loss: U = -gradient / rho.
    gradient = curvature * (model.weight.detach() - target)
    assert torch.allclose(pruner.u["weight"], -gradient / 3.0, atol=5e-3)
    projected = plan.project({"weight": target})["weight"]
    _train(model, optimizer, target, curvature, 1)
    assert pruner.phase == "tune"

    def loss(w: Tensor) -> float:
        return float((curvature * (w - target).square()).sum())

    assert loss(model.weight.detach()) <= loss(projected) * 1.02


def test_it_hardens_when_both_residuals_are_below_the_tolerance_and_tunes_the_rest() -> None:
    model, plan, target, curvature = _problem("4x1", 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = ADMM(model, optimizer, plan, steps=1200, rho=[3.0], update_every=30, tolerance=0.05)
    while pruner.phase == "regularise":
        _train(model, optimizer, target, curvature, 1)
    assert pruner.step < pruner.timeline.harden_step(0)
    assert max(pruner.history[-1].primal, pruner.history[-1].dual) <= 0.05
    assert all(max(r.primal, r.dual) > 0.05 for r in pruner.history[:-1])
    assert pruner.step == pruner.history[-1].step
    mask = pruner.masks["weight"].clone()
    _train(model, optimizer, target, curvature, 1200)
    assert torch.equal(pruner.masks["weight"], mask)
    # Tuned to the end: the survivors are at their own optimum.
    assert torch.allclose(model.weight[mask], target[mask], atol=1e-4)
    assert pruner.finish().plan.ok


def test_one_small_residual_alone_is_no_reason_to_stop() -> None:
    model, plan, target, curvature = _problem("unstructured", 0.5)
    pruner = ADMM(
        model, torch.optim.SGD(model.parameters(), lr=0.1), plan, steps=400, rho=[1e-9], update_every=5, tolerance=0.2
    )
    _train(model, pruner._optimizer, target, curvature, 150)
    # Nothing pulls, so that Z stands still and the dual residual is 0; W and Z stay apart.
    assert pruner.phase == "regularise"
    assert pruner.history[0].dual < 0.2 < pruner.history[0].primal


def test_each_weight_has_the_rho_of_the_last_glob_that_meets_it() -> None:
    model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 2, bias=False))
    before = [layer.weight.detach().clone() for layer in model]
    plan = Plan({"0.weight": ("unstructured", 0.5), "1.weight": ("unstructured", 0.5)})
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    pruner = ADMM(model, optimizer, plan, steps=8, rho={"*": [0.25, 0.5], "1": [0.5, 0.75]}, update_every=9)
    assert pruner.rho == 0.5
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for layer, old, rho in zip(model, before, (0.25, 0.5), strict=True):
        z = pattern("unstructured").project(old, 0.5)
        assert torch.allclose(layer.weight.detach(), old - rho * (old - z))
    optimizer.step()
    assert pruner.rho == 0.75


@pytest.mark.parametrize(
    ("rho", "message"),
    [
        ({"0.weight": [0.1]}, "no value for 1.weight"),
        ({"*": [0.1], "2.weight": [0.1]}, r"rho\['2.weight'\]: the glob meets no planned weight"),
        ({"*": [0.1], "1.weight": [0.1, 0.2]}, "as many stages for every glob"),
        ({"*": [0.1], "1.weight": [0.0]}, r"rho\['1.weight'\]: expected one or more positive"),
        ({}, "rho"),
    ],
)
def test_globs_that_leave_a_doubt_are_refused(rho: dict, message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
    plan = Plan({"0.weight": ("unstructured", 0.5), "1.weight": ("unstructured", 0.5)})
    with pytest.raises(ValueError, match=message):
        ADMM(model, torch.optim.SGD(model.parameters(), lr=1.0), plan, steps=100, rho=rho)


@pytest.mark.parametrize(("name", "per_round"), [("unstructured", (24, 12, 6)), ("unify4x1", (24, 12, 8))])
def test_rounds_keep_former_zeros_and_take_the_same_part_of_what_is_left(name: str, per_round: tuple[int, ...]) -> None:
    model, plan, target, curvature = _problem(name, 0.125)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    pruner = ADMM(model, optimizer, plan, steps=60, rho=[0.5, 1.0], update_every=2, rounds=3)
    assert pruner.timeline.rounds == ((0, 5, 10), (20, 25, 30), (40, 45, 50))
    dead = torch.zeros_like(target, dtype=torch.bool)
    kept = []
    for step in range(60):
        # The target moves, so that what was pruned would come back if it could.
        _train(model, optimizer, target.roll(step, 1), curvature, 1)
        assert not model.weight.detach()[dead].any()
        assert pruner.phase == ("regularise" if pruner.step % 20 < 10 and pruner.step < 60 else "tune")
        assert bool(pruner.ties) == (pruner.phase == "tune" and name != "unstructured"), "loosed in every round"
        if pruner.step % 20 == 10:
            dead = ~pruner.masks["weight"]
            kept.append(int(model.weight.count_nonzero()))
            assert pattern(name).holds(model.weight, 0.5 ** len(kept))
    # 48 weights, or 12 blocks of which 0.125 are 1.5, rounded up.
    assert tuple(kept) == per_round
    assert pruner.finish().plan.ok


def test_a_round_that_stops_early_tunes_until_the_next_begins() -> None:
    model, plan, target, curvature = _problem("4x1", 0.25)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    pruner = ADMM(model, optimizer, plan, steps=200, rho=[2.0], update_every=5, rounds=2, tolerance=0.5)
    phases = []
    for _ in range(200):
        _train(model, optimizer, target, curvature, 1)
        phases.append(pruner.phase)
    first = phases.index("tune")
    assert first < 49
    assert set(phases[first:99]) == {"tune"}
    assert phases[99] == "regularise"
    assert set(phases[-100:][phases[-100:].index("tune") :]) == {"tune"}


def test_rounds_without_a_step_between_them_are_refused() -> None:
    model, plan, *_ = _problem("4x1", 0.25)
    with pytest.raises(ValueError, match="each round one more before the next"):
        ADMM(model, torch.optim.SGD(model.parameters(), lr=1.0), plan, steps=20, rho=[1.0], rounds=4, harden_at=0.99)
    with pytest.raises(ValueError, match="rounds: expected one or more, got 0"):
        ADMM(model, torch.optim.SGD(model.parameters(), lr=1.0), plan, steps=20, rho=[1.0], rounds=0)
    with pytest.raises(ValueError, match="tolerance: expected a positive number"):
        ADMM(model, torch.optim.SGD(model.parameters(), lr=1.0), plan, steps=20, rho=[1.0], tolerance=0.0)
