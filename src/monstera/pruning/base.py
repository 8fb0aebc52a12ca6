"""What all training-time methods share: hooks around the optimizer's step, masks, state, and a checked end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from monstera.pruning.batch_norm import reestimate_batch_norm
from monstera.pruning.distributed import (
    decided,
    is_sharded,
    part_of,
    processes,
    refuse_disagreement,
    reshard,
    tied,
    whole,
    whole_state,
    whole_weights,
)
from monstera.pruning.divergence import DivergenceLog, resumed
from monstera.pruning.holes import clear_state_, punch_
from monstera.pruning.optimizer_step import closure_of, need_weights, skips_update
from monstera.pruning.report import Divergence, Progress, PruneReport
from monstera.pruning.tying import tie_, tie_grads_, tie_state_
from monstera.sparsity import Plan, PlanError, Ties
from monstera.sparsity.attached import attach, detach


class Pruner(ABC):
    """A pruning method attached to an optimizer: the training loop stays the user's own.

    Every `optimizer.step()` calls `before_step` (gradients are there, weights not yet moved) and `after_step` (weights
    moved, `self.step` counted). Steps that mixed precision skips call neither. Between steps the parameters hold what
    the forward pass uses: weights outside `self.masks` are exact zeros, and those that `self.ties` bind are tied. While
    the method `holds_holes`, gradients and momentum of dead weights are zero, and those of tied ones tied alike.

    With several processes (DDP, FSDP2) each has its pruner, on the module that the plan names weights of. Masks are
    decided on whole weights and are those of process 0. Making a pruner, its steps, `finish`, `state_dict` and
    `load_state_dict` wait for all processes; `progress` and `densities` do not. Masks are replaced, never edited.

    Args:
        model: its planned parameters are edited in place at every step.
        optimizer: must hold every planned weight; its state of dead weights is cleared.
        plan: checked against the model.
        steps: how many optimizer steps the method is spread over; later steps keep the holes.

    Raises:
        PlanError: the plan does not fit the model, or a planned weight is NaN.
        ValueError: the plan is empty, `steps` is not positive, or the optimizer does not hold all planned weights.
        TypeError: the model was wrapped in torch's first FSDP, or is sharded and the method cannot work on parts.
        RuntimeError: processes that train together have different plans.
    """

    name: ClassVar[str]
    # Whether all that the method computes from weights is by element, or from whole weights.
    works_on_parts: ClassVar[bool] = False

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan, steps: int) -> None:
        if not plan:
            raise ValueError(f"{self.name}: the plan names no weight, so there is nothing to prune; see Plan.uniform")
        if steps < 1:
            raise ValueError(f"steps: expected at least 1 optimizer step, got {steps}")
        reshard(model)
        refuse_disagreement(self.name, "plans", [self.name, plan.to_yaml(), steps])
        self.plan, self.steps, self.step = plan, steps, 0
        self.weights: dict[str, nn.Parameter] = plan.weights(model)
        self.layouts = plan.layouts(model)
        self.masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}
        # Of weights whose pattern constrains values, once it is fixed which weights are tied.
        self.ties: dict[str, Ties] = {}
        self._model, self._optimizer = model, optimizer
        self._skipped, self._compared = False, False
        self._kept: tuple[Mapping[str, Tensor], dict[str, int]] = ({}, {})
        self._divergence: DivergenceLog | None = None
        need_weights(optimizer, self.weights)
        self._sharded = any(map(is_sharded, self.weights.values()))
        if self._sharded and not self.works_on_parts:
            raise TypeError(f"{self.name}: needs whole weights, and these are sharded; train under DDP instead")
        if self._sharded and any(entry.pattern.constrains_values for entry in plan.values()):
            raise TypeError(f"{self.name}: ties bind whole weights, and these are sharded; train under DDP instead")
        _refuse_nan(self.weights)
        # Whatever is refused is refused by here: model and optimizer are as they were.
        with torch.no_grad():
            self.start()
        self._keep()
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
        """Whether dead weights are dead and tied ones tied now, so that neither gradient nor momentum may move them."""
        return True

    def start(self) -> None:  # noqa: B027 (not every method has something to make)
        """Make masks, ties and state of the weights as they come; the base makes the weights obey afterwards.

        Where this raises, nothing is attached and nothing was changed: so a method makes here, and not in its
        constructor, what may fail, and edits neither model nor optimizer.
        """

    @abstractmethod
    def before_step(self, grads: Mapping[str, Tensor], scale: Tensor | float) -> None:
        """Edit the gradients of planned weights in place.

        Args:
            grads: of those planned weights that have one.
            scale: what the gradients are still multiplied by (mixed precision with a fused optimizer), else 1.
        """

    @abstractmethod
    def after_step(self) -> None:
        """Move masks and other state, with `self.step` steps done. The base makes the weights obey afterwards."""

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
        """Bring masks and ties to the plan, as nearest projection of the weights as they are."""
        self.harden_to(self.plan)

    # ---- what a method calls ----------------------------------------------------------------------------------------

    def harden_to(self, plan: Plan) -> None:
        """Bring masks and ties to a plan on the way.

        What is dead stays dead. From now on which weights are tied is fixed, and training moves their scalars.
        """
        self.masks = {name: mask & self.masks[name] for name, mask in self.decide(plan=plan).items()}
        self.ties = self.bind(self.weights, self.masks, plan)

    def decide(self, points: Mapping[str, Tensor] | None = None, plan: Plan | None = None) -> dict[str, Tensor]:
        """The masks of the plan, or of another one, for the weights or for other points: alike on all processes."""
        return decided(plan or self.plan, points or self.weights, self.layouts, self.weights)

    def bind(
        self, points: Mapping[str, Tensor], masks: Mapping[str, Tensor], plan: Plan | None = None
    ) -> dict[str, Ties]:
        """How the plan, or another one, ties what masks keep of points: alike on all processes."""
        return tied(plan or self.plan, points, masks, self.layouts)

    def nearest(self, points: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        """The projection of points of the weights' shapes to a plan, its masks alike on all processes."""
        masks = self.decide(points, plan)
        ties = self.bind(points, masks, plan)
        return {
            name: ties[name].nearest(point) if name in ties else point.masked_fill(~masks[name], 0)
            for name, point in points.items()
        }

    def placed(self, name: str, values: Tensor) -> Tensor:
        """A copy of whole values of a weight (from a state), where and as the weight lies."""
        weight = self.weights[name]
        return part_of(values.to(weight.device, copy=True), weight)

    # ---- what a user calls ------------------------------------------------------------------------------------------

    def progress(self) -> Progress:
        """Where the method stands; cheap enough for every step."""
        size = sum(mask.numel() for mask in self.masks.values())
        last = self.divergences[-1] if self.divergences else None
        return Progress(self.step, self.steps, self.phase, sum(self._count().values()) / size, divergence=last)

    def densities(self) -> dict[str, float]:
        """The fraction of each planned weight that its mask keeps now."""
        return {name: kept / self.masks[name].numel() for name, kept in self._count().items()}

    def track_divergence(self, every: int = 1) -> None:
        """Begin to note, every so many steps, how many weights came into the masks or left them: see `divergences`.

        Keeps the masks of one step more. What was noted is part of the state; who loads it goes on, and needs not call
        this. With several processes call it on all, as to count sharded masks waits for all.

        Raises:
            ValueError: `every` is below 1.
        """
        self._divergence = DivergenceLog(every, self.step, self.masks)

    @property
    def divergences(self) -> list[Divergence]:
        """Sparse architecture divergence, the latest last; empty unless `track_divergence` was called."""
        return [] if self._divergence is None else self._divergence.history

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
        self._keep()
        with whole_weights(self._model, self.plan):
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
        """Everything a new pruner of the same settings needs to go on bit for bit: tensors and plain values only.

        Tensors are whole also where weights are sharded, so that another number of processes may go on.
        """
        state = {
            "method": self.name,
            "settings": {"plan": self.plan.to_yaml(), "steps": self.steps, **self.settings()},
            "step": self.step,
            "masks": {name: mask.clone() for name, mask in self.masks.items()},
            "divergence": None if self._divergence is None else self._divergence.state(),
            "ties": {name: [ties.group.clone(), ties.factor.clone()] for name, ties in self.ties.items()},
            **self.own_state(),
        }
        return whole_state(state)

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
        self.masks = {name: self.placed(name, state["masks"][name].to(torch.bool)) for name in self.weights}
        self._divergence = resumed(self._divergence, state.get("divergence"), self.step, self.masks)
        # States from before there were notes or ties have none.
        ties = state.get("ties", {})
        self.ties = {name: Ties(*pair).to(self.weights[name].device) for name, pair in ties.items()}
        self.load_own_state(state)
        self._compared = False

    # ---- hooks ------------------------------------------------------------------------------------------------------

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if closure_of(optimizer, args, kwargs) is not None:
            raise RuntimeError(
                f"{self.name}: optimizer.step(closure) computes gradients inside the step, where the method cannot "
                "correct them; call the closure first and step() without it"
            )
        self._skipped = skips_update(optimizer)
        if self._skipped:
            return
        if not self._compared and processes() > 1:
            state = [self.settings(), self.weights, self.masks, self.step, self.own_state()]
            refuse_disagreement(self.name, "settings, weights or states", state)
        self._compared = True
        grads = {name: weight.grad for name, weight in self.weights.items() if weight.grad is not None}
        scale = getattr(optimizer, "grad_scale", None)
        with torch.no_grad():
            self.before_step(grads, 1.0 if scale is None else scale)
            if self.holds_holes:
                for name, grad in grads.items():
                    grad.masked_fill_(~self.masks[name], 0)
                tie_grads_(grads, self.ties)

    def _after(self, _optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if self._skipped:
            return
        self.step += 1
        with torch.no_grad():
            self.after_step()
            self._keep()
            if self._divergence is not None:
                self._divergence.note(self.step, self.masks)
        if self._sharded:
            self._count()  # here, where all processes are, so that `progress` waits for none

    def _count(self) -> dict[str, int]:
        if self._kept[0] is not self.masks:
            self._kept = self.masks, {name: int(whole(mask.sum())) for name, mask in self.masks.items()}
        return self._kept[1]

    def _keep(self) -> None:
        punch_(self.weights, self.masks)
        tie_(self.weights, self.ties)
        if self.holds_holes:
            clear_state_(self._optimizer, self.weights, self.masks)
            tie_state_(self._optimizer, self.weights, self.ties)


def _refuse_nan(weights: Mapping[str, Tensor]) -> None:
    counts = {name: int(whole(weight.detach().isnan().sum())) for name, weight in weights.items()}
    spoilt = [f"{name}: {count} of {weights[name].numel()} weights are NaN" for name, count in counts.items() if count]
    if spoilt:
        raise PlanError(f"{what}; has training diverged?" for what in spoilt)
