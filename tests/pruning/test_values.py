"""Constraints on values while a network trains: ties of weights, gradients and momentum, whatever the method."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import monstera as ms
from monstera.compiler import price
from monstera.pruning import ADMM, SRSTE, Pruner
from monstera.sparsity import Plan
from monstera.zoo import digits_cnn
from monstera.zoo.data import digits
from pruning.methods import METHODS, TO_THE_PLAN

STEPS = 16
# All but SPP, which serves no pattern that constrains values.
METHOD = pytest.mark.parametrize("method", [method for method in TO_THE_PLAN if method != "SPP"])
PATTERNS = pytest.mark.parametrize(
    ("name", "density"),
    [("unify4x1", 0.25), ("unify4x1u0.9", 0.25), ("4x1&unify2x1", 0.25), ("4x1&int4", 0.25), ("int3", 1)],
)
OPTIMIZERS = pytest.mark.parametrize(
    "optimizer_of",
    [
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
        lambda m: torch.optim.AdamW(m.parameters(), 1e-2, amsgrad=True),
        lambda m: torch.optim.RMSprop(m.parameters(), 1e-3, momentum=0.9, centered=True),
    ],
)


def _attached(method: str, model: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan) -> Pruner:
    return METHODS[method](model, optimizer, plan, steps=STEPS)


def _dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10))


def _network(name: str, density: float) -> tuple[nn.Module, Plan]:
    torch.manual_seed(0)
    model = _dense()
    return model, Plan.uniform(model, name, density)


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    images, labels = _train()
    start = step * 32 % 1400
    optimizer.zero_grad()
    F.cross_entropy(model(images[start : start + 32]), labels[start : start + 32]).backward()
    optimizer.step()


def _train(cache: list[tuple[Tensor, Tensor]] = []) -> tuple[Tensor, Tensor]:  # noqa: B006 (read once)
    if not cache:
        pictures = digits().train
        cache.append((pictures.images.float() / 255, pictures.labels))
    return cache[0]


@METHOD
@PATTERNS
def test_from_hardening_to_the_end_the_plan_holds_after_every_step_and_ties_are_fixed(
    method: str, name: str, density: float
) -> None:
    model, plan = _network(name, density)
    optimizer = _sgd(model)
    pruner = _attached(method, model, optimizer, plan)
    fixed = None
    for step in range(STEPS + 4):
        _step(model, optimizer, step)
        if pruner.phase == "tune" and step >= STEPS - 4:
            assert plan.verify(model).ok
            now = [(ties.group, ties.factor) for ties in pruner.ties.values()]
            fixed = fixed or now
            assert all(
                torch.equal(a, b) for old, new in zip(fixed, now, strict=True) for a, b in zip(old, new, strict=True)
            )
    assert fixed
    assert set(pruner.ties) == set(plan)
    report = pruner.finish()
    assert report.plan.ok
    if name == "int3":
        assert report.plan.density > 0.3
    else:
        assert report.plan.density <= 0.26


@METHOD
def test_finishing_early_projects_at_once(method: str) -> None:
    model, plan = _network("unify4x1u0.9", 0.25)
    optimizer = _sgd(model)
    pruner = _attached(method, model, optimizer, plan)
    for step in range(3):
        _step(model, optimizer, step)
    assert pruner.finish().plan.ok


@OPTIMIZERS
def test_gradients_and_optimizer_state_of_tied_weights_are_tied(
    optimizer_of: Callable[[nn.Module], torch.optim.Optimizer],
) -> None:
    model, plan = _network("unify4x1u0.9", 0.25)
    optimizer = optimizer_of(model)
    pruner = _attached("ADMM", model, optimizer, plan)
    for step in range(STEPS):
        _step(model, optimizer, step)
    for name, ties in pruner.ties.items():
        weight = pruner.weights[name]
        assert torch.allclose(ties.part(weight.grad), weight.grad, atol=1e-9, rtol=1e-6)
        states = {k: v for k, v in optimizer.state[weight].items() if torch.is_tensor(v) and v.shape == weight.shape}
        assert states
        for key, value in states.items():
            squares = key.endswith("_sq") or key == "square_avg"
            tied = ties.part_of_squares(value) if squares else ties.part(value)
            assert torch.equal(tied, value), key
            assert value.any()


def test_a_tied_block_moves_by_the_mean_of_its_signed_gradients_and_decays_once() -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -4.0, 0.5, 0.25]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1)
    pruner = ADMM(model, optimizer, Plan({"weight": ("unify1x2", 0.5)}), steps=2, rho=[1e-9])
    model.weight.grad = torch.zeros(1, 4)
    optimizer.step()
    # Decay first, 2 * 0.95 and 4 * 0.95, then one magnitude: 2.85; the second block saves less and dies.
    assert model.weight[0].tolist() == pytest.approx([2.85, -2.85, 0, 0])
    model.weight.grad = torch.tensor([[1.0, 3.0, 9.0, 9.0]])
    optimizer.step()
    # The scalar's direction is (1 * 1 - 1 * 3) / 2 = -1: 2.85 - 0.5 * (-1 + 0.1 * 2.85), signs as they were.
    assert model.weight[0].tolist() == pytest.approx([3.2075, -3.2075, 0, 0])
    assert model.weight[0, 0].item() == -model.weight[0, 1].item()
    pruner.finish()


def test_momentum_from_before_the_ties_does_not_pull_them_apart() -> None:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -2.0]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
    ADMM(model, optimizer, Plan({"weight": ("unify1x2", 1.0)}), steps=2, rho=[1e-9])
    model.weight.grad = torch.tensor([[1.0, 1.0]])
    optimizer.step()
    # (1, -3) is tied to (2, -2); of the momentum (1, 1), nowhere negative, nothing moves both magnitudes alike.
    assert model.weight[0].tolist() == [2, -2]
    assert optimizer.state[model.weight]["momentum_buffer"].tolist() == [[0, 0]]
    model.weight.grad = torch.tensor([[-4.0, 0.0]])
    optimizer.step()
    assert model.weight[0].tolist() == [4, -4]


def test_a_quantised_weight_keeps_its_levels_and_learns_its_scale() -> None:
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, -1.0, 0.1]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    pruner = ADMM(model, optimizer, Plan({"weight": ("int3",)}), steps=2, rho=[1e-9])
    model.weight.grad = torch.zeros(1, 3)
    optimizer.step()
    assert model.weight[0].tolist() == [3, -1, 0]
    model.weight.grad = torch.tensor([[-3.0, -1.0, 5.0]])
    optimizer.step()
    # Levels 3, -1, 0: the scale's direction is (3 * -3 + -1 * -1) / (9 + 1) = -0.8.
    assert model.weight[0].tolist() == pytest.approx([5.4, -1.8, 0], rel=1e-6)
    assert pruner.finish().plan.ok


def test_weights_behind_their_quantised_projection_learn_as_if_they_were_not_quantised() -> None:
    model, plan = _network("4x1&int4", 0.25)
    optimizer = _sgd(model)
    pruner = SRSTE(model, optimizer, plan, steps=STEPS, decay=0.0)
    levels = []
    for step in range(STEPS - 1):
        _step(model, optimizer, step)
        assert plan.verify(model).ok
        assert all(
            torch.equal(p, pruner.weights[name]) for name, p in plan.project(pruner.dense, pruner.layouts).items()
        )
        levels.append(torch.cat([ties.factor.flatten() for ties in pruner.ties.values()]))
    assert any(not torch.equal(a, b) for a, b in pairwise(levels)), "levels follow the dense weights"


@pytest.mark.parametrize(
    ("method", "name"),
    [("ADMM", "4x1&int4"), ("ADMM, rounds", "unify4x1u0.9"), ("SRSTE", "unify4x1u0.9"), ("Gradual", "4x1&int4")],
)
@given(cut=st.integers(0, STEPS + 2))
@settings(max_examples=4)
def test_a_resumed_run_ends_bit_for_bit_like_one_that_was_not_stopped(method: str, name: str, cut: int) -> None:
    model, plan = _network(name, 0.25)
    optimizer = _sgd(model)
    pruner = _attached(method, model, optimizer, plan)
    buffer = io.BytesIO()
    for step in range(STEPS + 3):
        if step == cut:
            torch.save([model.state_dict(), optimizer.state_dict(), pruner.state_dict()], buffer)
        _step(model, optimizer, step)
    pruner.finish()

    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    torch.manual_seed(99)
    resumed = _dense()
    again = _sgd(resumed)
    later = _attached(method, resumed, again, plan)
    resumed.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    later.load_state_dict(saved[2])
    for step in range(cut, STEPS + 3):
        _step(resumed, again, step)
    later.finish()
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_mixed_precision_skips_leaves_ties_as_they_are(fused: bool) -> None:
    model, plan = _network("unify4x1", 0.25)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
    pruner = ADMM(model, optimizer, plan, steps=4, rho=[1e-2])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    images, labels = _train()
    for step in range(6):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(images[:32]), labels[:32])).backward()
        if step == 4:
            next(iter(model.parameters())).grad[0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        if step == 4:
            assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert step < 2 or plan.verify(model).ok
    assert pruner.finish().steps == 5


def test_one_shot_projects_values_and_a_network_in_half_precision_does_so_too() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model, plan = _network("4x1&int4", 0.25)
        model = model.to(dtype)
        assert ms.prune(model, plan).plan.ok


@pytest.mark.parametrize(
    ("name", "density"), [("unify4x1", 0.5), ("unify4x1u0.9", 0.5), ("4x1&int4", 0.5), ("int4", 1)]
)
def test_a_network_trained_with_admm_under_a_constraint_compiles_and_agrees_with_torch(
    name: str, density: float
) -> None:
    torch.manual_seed(0)
    model = digits_cnn(width=8)
    plan = Plan.uniform(model, name, density)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruner = ADMM(model, optimizer, plan, steps=100, rho=[1.0], update_every=10)
    for step in range(100):
        _step(model, optimizer, step)
    assert pruner.finish().plan.ok
    images, labels = _train()
    model = model.eval()
    with torch.no_grad():
        expected = model(images[:64])
    engine = ms.compile(model, images[:64])
    got = np.asarray(engine(images[:64]))
    assert np.abs(got - expected.numpy()).max() <= 1e-4 * float(expected.abs().max())
    assert float((torch.from_numpy(got).argmax(1) == labels[:64]).float().mean()) > 0.3


def test_a_unified_layer_that_was_trained_so_gets_the_kernel_of_unified_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(price, "_CACHE_BYTES", 0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 160), nn.ReLU())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    pruner = ADMM(model, optimizer, Plan({"0.weight": ("unify16x1", 0.3)}), steps=8, rho=[1e-1])
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.randn(16, 300)).square().mean().backward()
        optimizer.step()
    pruner.finish()
    x = torch.randn(1, 300)
    engine = ms.compile(model.eval(), x)
    assert "f32_spmv_unified_16x1_relu" in [step.kernel for step in engine.manifest.layers]
    with torch.no_grad():
        torch.testing.assert_close(engine(x), model(x), rtol=1e-4, atol=1e-5)
