"""One law for every method in every loop a user may write: mixed precision, accumulation, clipping, any optimizer.

Holes are exact after each step, steps that mixed precision skips change nothing, and a run that is stopped at any step
and goes on from what was saved ends bit for bit like one that was not.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from monstera.sparsity import Plan
from pruning.methods import METHODS, STEPS

# Steps that mixed precision skips: early, twice in a row, and where phases change. Not the first of all, after which
# torch's fused SGD goes on with a momentum that nobody set.
SPOILT = (1, 4, 8, 9)
TAKEN = STEPS + len(SPOILT)


def _by_rate(model: nn.Module) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    return [{"params": matrices, "lr": 0.01, "weight_decay": 0.0}, {"params": others}]


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "SGD": lambda m: torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "SGD without momentum": lambda m: torch.optim.SGD(m.parameters(), lr=0.05),
    "Adam": lambda m: torch.optim.Adam(m.parameters(), lr=0.01, amsgrad=True),
    "AdamW by groups": lambda m: torch.optim.AdamW(_by_rate(m), lr=0.003, weight_decay=0.1),
    "SGD by groups": lambda m: torch.optim.SGD(_by_rate(m), lr=0.05, momentum=0.9),
    "fused SGD": lambda m: torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, fused=True),
    "fused AdamW": lambda m: torch.optim.AdamW(m.parameters(), lr=0.01, fused=True),
}


@dataclass(frozen=True, slots=True)
class Loop:
    """How the steps of a training loop are made."""

    scaled: bool = False
    clipped: bool = False
    micro_batches: int = 1


LOOPS = {
    "accumulated": Loop(micro_batches=2),
    "scaled": Loop(scaled=True),
    "all at once": Loop(scaled=True, clipped=True, micro_batches=2),
}


class Run:
    """A small network in training, with everything that a user would save."""

    def __init__(self, method: str, optimizer: str, loop: Loop) -> None:
        torch.manual_seed(0)
        layers = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(72, 7)
        self.model, self.loop = nn.Sequential(*layers), loop
        self.optimizer = OPTIMIZERS[optimizer](self.model)
        plan = Plan({"0.weight": ("2x1", 0.5), "3.weight": ("4x1", 0.25), "5.weight": ("2:4",)})
        self.pruner = METHODS[method](self.model, self.optimizer, plan)
        # The scale grows in between, and halves at Inf.
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3, enabled=loop.scaled)

    @property
    def parts(self) -> list[Any]:
        return [self.model, self.optimizer, self.pruner, self.scaler]

    def state(self) -> Any:
        return copy.deepcopy([part.state_dict() for part in self.parts])

    def saved(self) -> Any:
        """Through a file that is loaded without unpickling code."""
        buffer = io.BytesIO()
        torch.save(self.state(), buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)

    def go_on(self, saved: Any) -> None:
        for part, state in zip(self.parts, saved, strict=True):
            part.load_state_dict(state)

    def step(self, number: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * 0.95**number
        self.optimizer.zero_grad()
        for part in range(self.loop.micro_batches):
            images, labels = _batch(number * self.loop.micro_batches + part)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.loop.scaled):
                loss = F.cross_entropy(self.model(images), labels) / self.loop.micro_batches
            self.scaler.scale(loss).backward()
        if self.loop.scaled and number in SPOILT:
            self.model[3].weight.grad[0] = float("inf")
        if self.loop.clipped:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def _batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(8, 2, 7, 7, generator=generator), torch.randint(7, (8,), generator=generator)


def _assert_equal(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            _assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            _assert_equal(left, right)
    else:
        assert a == b


def _assert_holes_are_exact(run: Run) -> None:
    pruner = run.pruner
    for name, mask in pruner.masks.items():
        weight = pruner.weights[name]
        assert weight.isfinite().all()
        assert not weight.detach()[~mask].any()
        if pruner.holds_holes:
            states = [v for v in run.optimizer.state[weight].values() if torch.is_tensor(v) and v.shape == mask.shape]
            assert not any(value[~mask].any() for value in states)


QUICK = {
    ("accumulated", "SGD"),
    ("accumulated", "Adam"),
    ("scaled", "fused SGD"),
    ("scaled", "AdamW by groups"),
    ("all at once", "SGD by groups"),
    ("all at once", "fused AdamW"),
}
METHOD = pytest.mark.parametrize("method", METHODS)
WAY = pytest.mark.parametrize(
    ("loop", "optimizer"),
    [pytest.param(*way, marks=() if way in QUICK else pytest.mark.full) for way in product(LOOPS, OPTIMIZERS)],
)


@METHOD
@WAY
def test_holes_are_exact_after_each_step_and_skipped_steps_change_nothing(
    method: str, loop: str, optimizer: str
) -> None:
    run = Run(method, optimizer, LOOPS[loop])
    for number in range(TAKEN):
        model, _, pruner, _ = before = run.state()
        run.step(number)
        after = run.state()
        if run.loop.scaled and number in SPOILT:
            # Batch norm saw the batch, as it does in every loop; rates and the scale were set by the loop.
            weights = {name for name, _ in run.model.named_parameters()}
            _assert_equal(*({name: state[0][name] for name in weights} for state in (before, after)))
            _assert_equal(before[1]["state"], after[1]["state"])
            _assert_equal(pruner, after[2])
            continue
        assert run.pruner.step == pruner["step"] + 1
        assert any(not torch.equal(model[name], value) for name, value in after[0].items())
        _assert_holes_are_exact(run)
    assert run.pruner.step == STEPS if run.loop.scaled else TAKEN
    assert run.pruner.finish().plan.ok


@METHOD
@WAY
@given(cut=st.integers(0, TAKEN))
@settings(max_examples=3)
def test_a_loop_that_goes_on_from_any_step_ends_bit_for_bit_the_same(
    method: str, loop: str, optimizer: str, cut: int
) -> None:
    whole = Run(method, optimizer, LOOPS[loop])
    saved = None
    for number in range(TAKEN):
        if number == cut:
            saved = whole.saved()
        whole.step(number)
    later = Run(method, optimizer, LOOPS[loop])
    with torch.no_grad():
        for parameter in later.model.parameters():
            parameter.add_(1)
    later.go_on(whole.saved() if saved is None else saved)
    for number in range(cut, TAKEN):
        later.step(number)
    _assert_equal(whole.state(), later.state())
    for run in (whole, later):
        run.pruner.finish()
    _assert_equal(whole.model.state_dict(), later.model.state_dict())


@METHOD
@pytest.mark.parametrize("optimizer", ["SGD", "fused SGD"])
def test_micro_batches_and_loss_scale_change_the_end_by_rounding_only(method: str, optimizer: str) -> None:
    """The penalty enters once a step, in the units of the unscaled gradient, however the gradient was made."""
    ends = []
    for scale, parts in ((1.0, 1), (4096.0, 1), (4096.0, 4)):
        run = Run(method, optimizer, Loop())
        run.model[1].eval()  # its statistics would depend on how the batch is cut
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for number in range(4):
            run.optimizer.zero_grad()
            images, labels = _batch(number)
            for some, meant in zip(images.chunk(parts), labels.chunk(parts), strict=True):
                scaler.scale(F.cross_entropy(run.model(some), meant) / parts).backward()
            scaler.step(run.optimizer)
            scaler.update()
        ends.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
    assert torch.allclose(ends[0], ends[1], atol=1e-5)
    assert torch.allclose(ends[0], ends[2], atol=1e-5)
