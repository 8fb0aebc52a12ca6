"""What all training-time methods share: hooks around the optimizer's step, masks, state, and a checked end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from monstera.pruning.batch_norm import reestimate_batch_norm
from monstera.pruning.holes import clear_state_, punch_
from monstera.pruning.report import Progress, PruneReport
from monstera.sparsity import Plan
from monstera.sparsity.attached import attach, detach


class Pruner(ABC):
    """A pruning method attached to an optimizer: the training loop stays the user's own.

    Every `optimizer.step()` calls `before_step` (gradients are there, weights not yet moved) and `after_step` (weights
    moved, `self.step` counted). Steps that mixed precision skips call neither. Between steps the parameters hold what
    the forward pass uses, and weights outside `self.masks` are exact zeros, without gradient or momentum while the
    method `holds_holes`.

    Args:
        model: its planned parameters are edited in place at every step.
        optimizer: must hold every planned weight; its state of dead weights is cleared.
        plan: checked against the model.
        steps: how many optimizer steps the method is spread over; later steps keep the holes.

    Raises:
        PlanError: the plan does not fit the model.
        ValueError: `steps` is not positive, or the optimizer does not hold all planned weights.
    """

    name: ClassVar[str]

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps: expected at least 1 optimizer step, got {steps}")
        self.plan, self.steps, self.step = plan, steps, 0
        self.weights: dict[str, nn.Parameter] = plan.weights(model)
        self.layouts = plan.layouts(model)
        self.masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}
        self._model, self._optimizer = model, optimizer
        self._skipped = False
        _need_weights(optimizer, self.weights)
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]
        attach(self.weights.values(), self.name)

    # ---- what a method says -----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def phase(self) -> str:
        """What the method is doing now."""

    @property
    def holds_holes(self) -> bool:
        """Whether weights outside the masks are dead now, so that neither gradient nor momentum may move them."""
        return True

    @abstractmethod
    def before_step(self, grads: Mapping[str, Tensor], scale: Tensor | float) -> None:
        """Edit the gradients of planned weights in place.

        Args:
            grads: of those planned weights that have one.
            scale: what the gradients are still multiplied by (mixed precision with a fused optimizer), else 1.
        """

    @abstractmethod
    def after_step(self) -> None:
        """Move masks and other state; called with `self.step` steps done. The base punches the holes afterwards."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What must be equal for a state to be loaded: plain values only."""

    @abstractmethod
    def own_state(self) -> dict[str, Any]:
        """Whatever a resumed run needs besides step and masks: tensors and plain values, by name."""

    @abstractmethod
    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `own_state`."""

    def harden(self) -> None:
        """Bring the masks to the plan, as nearest projection of the weights as they are."""
        self.masks = self.plan.masks(self.weights, layouts=self.layouts)

    # ---- what a user calls ------------------------------------------------------------------------------------------

    def progress(self) -> Progress:
        """Where the method stands; cheap enough for every step."""
        kept = sum(int(mask.count_nonzero()) for mask in self.masks.values())
        size = sum(mask.numel() for mask in self.masks.values())
        return Progress(self.step, self.steps, self.phase, kept / size)

    def finish(self, batches: Iterable[Any] | None = None) -> PruneReport:
        """Bring the weights exactly to the plan, check them, and detach from the optimizer.

        A method that has not taken all its steps prunes at once; the report says so.

        Args:
            batches: if given, batch-norm statistics are estimated anew on them (see `reestimate_batch_norm`).

        Raises:
            RuntimeError: it was finished before, or the weights do not obey the plan.
        """
        if not self._handles:
            raise RuntimeError(f"{self.name}: finish() was called before; the pruner is detached")
        if self.step < self.steps:
            self.harden()
        self._punch()
        report = self.plan.verify(self._model)
        if not report.ok:
            broken = ", ".join(weight.name for weight in report.failures)
            raise RuntimeError(f"{self.name}: weights do not obey the plan: {broken}; were they replaced in training?")
        self.remove()
        used = 0 if batches is None else reestimate_batch_norm(self._model, batches)
        return PruneReport(self.name, report, self.step, self.steps, used)

    def remove(self) -> None:
        """Detach from the optimizer; weights stay as they are."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            detach(self.weights.values(), self.name)
        self._handles = []

    def state_dict(self) -> dict[str, Any]:
        """Everything a new pruner of the same settings needs to go on bit for bit: tensors and plain values only."""
        return {
            "method": self.name,
            "settings": {"plan": self.plan.to_yaml(), "steps": self.steps, **self.settings()},
            "step": self.step,
            "masks": {name: mask.clone() for name, mask in self.masks.items()},
            **self.own_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; the model and the optimizer load their own.

        Raises:
            ValueError: the state is of another method or of other settings; both are shown.
        """
        own = self.state_dict()
        for key in ("method", "settings"):
            if state.get(key) != own[key]:
                raise ValueError(f"pruner state: expected the {key} {own[key]!r}, got {state.get(key)!r}")
        self.step = state["step"]
        self.masks = _like(self.weights, state["masks"], torch.bool)
        self.load_own_state(state)

    # ---- hooks ------------------------------------------------------------------------------------------------------

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if _closure(optimizer, args, kwargs) is not None:
            raise RuntimeError(
                f"{self.name}: optimizer.step(closure) computes gradients inside the step, where the method cannot "
                "correct them; call the closure first and step() without it"
            )
        self._skipped = _found_inf(optimizer)
        if self._skipped:
            return
        grads = {name: weight.grad for name, weight in self.weights.items() if weight.grad is not None}
        scale = getattr(optimizer, "grad_scale", None)
        with torch.no_grad():
            self.before_step(grads, 1.0 if scale is None else scale)
            if self.holds_holes:
                for name, grad in grads.items():
                    grad.masked_fill_(~self.masks[name], 0)

    def _after(self, _optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if self._skipped:
            return
        self.step += 1
        with torch.no_grad():
            self.after_step()
            self._punch()

    def _punch(self) -> None:
        punch_(self.weights, self.masks)
        if self.holds_holes:
            clear_state_(self._optimizer, self.weights, self.masks)


def step_at(part: float, steps: int, name: str) -> int:
    """The optimizer step, at least the first, after which a part of `steps` is done.

    Raises:
        ValueError: the part is not between 0 and 1.
    """
    if not 0 < part < 1:
        raise ValueError(f"{name}: expected a fraction of the steps between 0 and 1, got {part}")
    return max(1, round(part * steps))


def _need_weights(optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter]) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if missing := [name for name, weight in weights.items() if id(weight) not in held]:
        raise ValueError(
            f"the optimizer does not hold the planned weights {', '.join(missing)}; "
            "build it from model.parameters() of this very model, or leave them out of the plan"
        )


def _closure(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
    # torch passes the optimizer itself along with the arguments of step().
    given = [value for value in (*args, *kwargs.values()) if value is not optimizer]
    return next((value for value in given if callable(value)), None)


def _found_inf(optimizer: torch.optim.Optimizer) -> bool:
    # Fused optimizers are stepped even when the gradient scaler found Inf, and skip the update by themselves.
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found.item())


def _like(weights: Mapping[str, Tensor], values: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: values[name].to(weight.device, dtype, copy=True) for name, weight in weights.items()}
