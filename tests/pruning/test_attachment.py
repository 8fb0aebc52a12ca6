"""What every method shares: hooks, mixed precision, state, the checked end. On a network that really trains."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from monstera.pruning import Gradual, Pruner
from monstera.sparsity import PatternError, Plan, PlanError
from monstera.sparsity.attached import refuse_attached
from monstera.zoo import digits_cnn
from monstera.zoo.data import digits
from pruning.methods import METHODS, TO_THE_PLAN

STEPS = 24
METHOD = pytest.mark.parametrize("method", TO_THE_PLAN)


def _attached(method: str, model: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan) -> Pruner:
    return METHODS[method](model, optimizer, plan, steps=STEPS)


def _network() -> tuple[nn.Module, Plan]:
    torch.manual_seed(0)
    model = digits_cnn(width=8)
    return model, Plan.uniform(model, "4x1", 0.25)


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)


def _batch(step: int) -> tuple[Tensor, Tensor]:
    train = _train()
    start = step * 32 % 1400
    return train[0][start : start + 32], train[1][start : start + 32]


def _train(cache: list[tuple[Tensor, Tensor]] = []) -> tuple[Tensor, Tensor]:  # noqa: B006 (read once)
    if not cache:
        pictures = digits().train
        cache.append((pictures.images.float() / 255, pictures.labels))
    return cache[0]


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    images, labels = _batch(step)
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


def _anneal(optimizer: torch.optim.Optimizer, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * 0.9**step


def _stored(state: object) -> object:
    """Through a file that is loaded without unpickling code."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@METHOD
@given(cut=st.integers(0, STEPS + 2))
@settings(max_examples=12)
def test_a_resumed_run_ends_bit_for_bit_like_one_that_was_not_stopped(method: str, cut: int) -> None:
    model, plan = _network()
    optimizer = _sgd(model)
    pruner = _attached(method, model, optimizer, plan)
    saved = None
    for step in range(STEPS + 3):
        _anneal(optimizer, step)
        if step == cut:
            saved = _stored([model.state_dict(), optimizer.state_dict(), pruner.state_dict()])
        _step(model, optimizer, step)
    pruner.finish()

    torch.manual_seed(99)
    resumed = digits_cnn(width=8)
    again = _sgd(resumed)
    later = _attached(method, resumed, again, plan)
    resumed.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    later.load_state_dict(saved[2])
    for step in range(cut, STEPS + 3):
        _anneal(again, step)
        _step(resumed, again, step)
    later.finish()
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


@METHOD
@pytest.mark.parametrize(
    "optimizer_of",
    [
        _sgd,
        lambda m: torch.optim.AdamW(m.parameters(), 1e-2),
        lambda m: torch.optim.Adam(m.parameters(), 1e-2, amsgrad=True),
    ],
)
def test_the_end_obeys_the_plan_exactly_and_no_momentum_of_dead_weights_is_left(
    method: str, optimizer_of: Callable
) -> None:
    model, plan = _network()
    optimizer = optimizer_of(model)
    pruner = _attached(method, model, optimizer, plan)
    for step in range(STEPS + 5):
        _step(model, optimizer, step)
    for name, mask in pruner.masks.items():
        weight = pruner.weights[name]
        assert not weight.detach()[~mask].any()
        assert not weight.grad[~mask].any()
        states = [v for v in optimizer.state[weight].values() if torch.is_tensor(v) and v.shape == weight.shape]
        assert states
        assert not any(value[~mask].any() for value in states)
    report = pruner.finish()
    assert report.plan.ok
    assert report.plan.density == pytest.approx(0.25, abs=0.01)
    assert (report.steps, report.planned_steps) == (STEPS + 5, STEPS)


@METHOD
def test_after_the_end_the_optimizer_is_free_again(method: str) -> None:
    model, plan = _network()
    optimizer = _sgd(model)
    pruner = _attached(method, model, optimizer, plan)
    for step in range(STEPS):
        _step(model, optimizer, step)
    pruner.finish()
    _step(model, optimizer, 0)
    assert not plan.verify(model).ok
    with pytest.raises(RuntimeError, match="finish\\(\\) was called before"):
        pruner.finish()


@METHOD
def test_finishing_early_prunes_at_once_and_says_so(method: str) -> None:
    model, plan = _network()
    optimizer = _sgd(model)
    pruner = _attached(method, model, optimizer, plan)
    for step in range(5):
        _step(model, optimizer, step)
    report = pruner.finish()
    assert report.plan.ok
    assert "stopped early: 24 were planned" in str(report)


@METHOD
def test_a_closure_is_refused_before_anything_changes(method: str) -> None:
    model, plan = _network()
    optimizer = _sgd(model)
    pruner = _attached(method, model, optimizer, plan)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for call in (lambda c: optimizer.step(c), lambda c: optimizer.step(closure=c)):
        with pytest.raises(RuntimeError, match=r"step\(closure\)"):
            call(lambda: torch.zeros(()))
    assert pruner.step == 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def _scaled_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, step: int, spoil: bool
) -> None:
    images, labels = _batch(step)
    optimizer.zero_grad()
    scaler.scale(F.cross_entropy(model(images), labels)).backward()
    if spoil:
        next(iter(model.parameters())).grad[0] = float("inf")
    scaler.step(optimizer)
    scaler.update()


@METHOD
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_mixed_precision_skips_changes_nothing(method: str, fused: bool) -> None:
    model, plan = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
    pruner = _attached(method, model, optimizer, plan)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(4):
        _scaled_step(model, optimizer, scaler, step, spoil=False)
    weights = [p.detach().clone() for p in model.parameters()]
    state = pruner.state_dict()
    _scaled_step(model, optimizer, scaler, 4, spoil=True)
    assert pruner.step == 4
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(torch.equal(mask, pruner.masks[name]) for name, mask in state["masks"].items())


@pytest.mark.parametrize("fused", [False, True])
def test_the_penalty_does_not_depend_on_the_loss_scale(fused: bool) -> None:
    results = []
    for scale in (1.0, 4096.0):
        model, plan = _network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        _attached("ADMM", model, optimizer, plan)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for step in range(10):
            _scaled_step(model, optimizer, scaler, step, spoil=False)
        results.append(model.conv2.weight.detach())
    assert torch.allclose(results[0], results[1], atol=1e-5)


def test_an_optimizer_without_the_planned_weights_is_refused_with_their_names() -> None:
    model, plan = _network()
    optimizer = torch.optim.SGD(model.linear.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"does not hold.*conv2\.weight, conv3\.weight"):
        _attached("ADMM", model, optimizer, plan)
    assert not optimizer._optimizer_step_pre_hooks


def test_a_state_of_another_method_or_other_settings_is_refused() -> None:
    model, plan = _network()
    optimizer = _sgd(model)
    admm, gradual = (_attached(method, model, optimizer, plan) for method in ("ADMM", "Gradual"))
    with pytest.raises(ValueError, match="expected the method 'Gradual', got 'ADMM'"):
        gradual.load_state_dict(admm.state_dict())
    other = Gradual(model, optimizer, plan, steps=STEPS, update_every=4)
    with pytest.raises(ValueError, match=r"settings.*'update_every': 4"):
        other.load_state_dict(gradual.state_dict())


@METHOD
def test_weights_that_were_replaced_behind_the_pruner_are_found_out(method: str) -> None:
    model, plan = _network()
    pruner = _attached(method, model, _sgd(model), plan)
    model.conv2.weight = nn.Parameter(torch.ones_like(model.conv2.weight))
    with pytest.raises(RuntimeError, match=r"do not obey the plan: conv2\.weight"):
        pruner.finish()


@METHOD
def test_progress_tells_phase_and_density(method: str) -> None:
    model, plan = _network()
    optimizer = _sgd(model)
    pruner = _attached(method, model, optimizer, plan)
    assert pruner.progress().density == (pytest.approx(0.25, abs=0.01) if method in ("SRSTE", "ASP") else 1)
    for step in range(STEPS):
        _step(model, optimizer, step)
    progress = pruner.progress()
    assert (progress.step, progress.steps, progress.phase) == (STEPS, STEPS, "tune")
    assert progress.density == pytest.approx(0.25, abs=0.01)
    assert "density 0.25" in str(progress)


@METHOD
def test_the_digits_are_still_read_after_pruning_three_quarters(method: str) -> None:
    model, plan = _network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(80):
        _step(model, optimizer, step)
    pruner = _attached(method, model, optimizer, plan)
    for step in range(80):
        _step(model, optimizer, step)
    pruner.finish([_batch(step) for step in range(20)])
    test = digits().test
    with torch.no_grad():
        accuracy = (model.eval()(test.images.float() / 255).argmax(1) == test.labels).float().mean()
    assert accuracy > 0.9


@pytest.mark.parametrize("method", METHODS)
@given(place=st.floats(0, 1, exclude_max=True), before=st.integers(0, 2), which=st.integers(0, 2))
@settings(max_examples=4)
def test_a_network_with_a_nan_is_refused_and_it_and_its_optimizer_stay_as_they_were(
    method: str, place: float, before: int, which: int
) -> None:
    runs = [(model, _sgd(model)) for model, _ in (_network(), _network())]
    plan = _network()[1]
    for step in range(before):
        for model, optimizer in runs:
            _step(model, optimizer, step)
    model, optimizer = runs[0]
    name = list(plan)[which % len(plan)]
    weights = model.get_parameter(name).detach().view(-1)
    spoilt = int(place * len(weights))
    was = weights[spoilt].item()
    weights[spoilt] = torch.nan
    with pytest.raises(PlanError, match=rf"{name}: 1 of {len(weights)} weights are NaN"):
        _attached(method, model, optimizer, plan)
    weights[spoilt] = was
    _assert_free(model, optimizer)
    for step in range(before, 4):
        for model, optimizer in runs:
            _step(model, optimizer, step)
    states = [[*model.state_dict().values(), *_momenta(optimizer)] for model, optimizer in runs]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


class _Startless(Pruner):
    """A method that cannot start."""

    name, phase = "startless", ""

    def start(self) -> None:
        self.harden()
        raise RuntimeError("out of memory")

    before_step = after_step = settings = own_state = load_own_state = lambda *_: None


def test_a_method_that_cannot_start_leaves_model_and_optimizer_as_they_were() -> None:
    model, plan = _network()
    optimizer = _sgd(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="out of memory"):
        _Startless(model, optimizer, plan, 4)
    _assert_free(model, optimizer)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("method", ["ADMM", "ASP", "SRSTE"])
def test_values_that_cannot_be_constrained_are_refused_before_anything_is_attached(method: str) -> None:
    model, _ = _network()
    optimizer = _sgd(model)
    with torch.no_grad():
        model.conv2.weight[0, 0] = torch.inf
    with pytest.raises(PatternError, match="infinite"):
        _attached(method, model, optimizer, Plan({"conv2.weight": ("int4", 1.0)}))
    _assert_free(model, optimizer)


def _assert_free(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    refuse_attached(dict(model.named_parameters()), "rewritten")


def _momenta(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [state["momentum_buffer"] for state in optimizer.state_dict()["state"].values()]


@METHOD
def test_an_empty_plan_is_refused_before_anything_is_attached(method: str) -> None:
    model, _ = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="the plan names no weight"):
        _attached(method, model, optimizer, Plan({}))
    assert not optimizer._optimizer_step_pre_hooks
