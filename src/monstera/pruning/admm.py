"""ADMM pruning: pull the weights towards their own projection, prune hard, tune what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor, nn

from monstera.pruning.base import Pruner, step_at
from monstera.pruning.distributed import whole
from monstera.pruning.report import Progress, Residuals
from monstera.sparsity import Plan

RHO = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, slots=True)
class Timeline:
    """When what happens, in optimizer steps: stage i of rho runs from `bounds[i]` to `bounds[i + 1]`, then harden.

    Raises:
        ValueError: a rho or an interval is not positive, or a stage would have no step.
    """

    rho: tuple[float, ...]
    bounds: tuple[int, ...]
    update_every: int

    def __post_init__(self) -> None:
        if not self.rho or min(self.rho) <= 0:
            raise ValueError(f"rho: expected one or more positive values, got {self.rho}")
        if self.update_every < 1:
            raise ValueError(f"update_every: expected at least 1 step, got {self.update_every}")
        if any(start >= end for start, end in pairwise(self.bounds)):
            raise ValueError(
                f"{len(self.rho)} stages of rho need at least one step each before hardening, got bounds {self.bounds}"
            )

    @property
    def harden_step(self) -> int:
        """After this many steps the weights are projected for good."""
        return self.bounds[-1]

    def stage(self, step: int) -> int:
        """Which rho holds for the step that is taken when `step` steps are done."""
        return next(i for i, end in enumerate(self.bounds[1:]) if step < end)

    def updates(self, step: int) -> bool:
        """Whether Z and U are updated when `step` steps are done (at the start of a stage they are made anew)."""
        start = self.bounds[self.stage(step)]
        return step > start and (step - start) % self.update_every == 0


def timeline(steps: int, rho: Sequence[float], update_every: int | None, harden_at: float) -> Timeline:
    """Spread the stages evenly over the first `harden_at` of `steps`; by default each has five updates of Z and U.

    Raises:
        ValueError: `harden_at` is outside (0, 1); see also `Timeline`.
    """
    harden = step_at(harden_at, steps, "harden_at")
    stages = max(1, len(rho))
    bounds = tuple(round(i * harden / stages) for i in range(stages + 1))
    return Timeline(tuple(rho), bounds, max(1, harden // stages // 5) if update_every is None else update_every)


@final
class ADMM(Pruner):
    """Prune by the alternating direction method of multipliers, in scaled form.

    Regularise: every step adds `rho (W - Z + U)` to the gradient, that is the penalty `rho/2 ||W - Z + U||^2`; every
    `update_every` steps `Z = projection(W + U)` and `U += W - Z`. At each new rho, U is 0 and Z the projection of W.
    Harden: W becomes its projection. Tune: the masks stay, weights are masked after every step.

    Set the learning rate back at the start of each stage if it decays; the pruner leaves it alone.

    Args:
        steps: optimizer steps of all phases together.
        rho: one value a stage, usually growing tenfold.
        update_every: steps between two updates of Z and U; default a fifth of a stage.
        harden_at: the fraction of `steps` after which the weights are projected for good.
        zero_only: pull only weights where Z is zero (towards -U), so that survivors move freely.

    Raises:
        ValueError: steps, rho, update_every or harden_at make no sense; see also `Pruner`.

    Source: T. Zhang et al., "A Systematic DNN Weight Pruning Framework using Alternating Direction Method of
    Multipliers" (ECCV 2018); stages of rho and `zero_only` as in the code released with RT3D (2021). Where that code
    finds the holes by a percentile threshold, ours takes an exact top k with explicit masks.
    """

    name = "ADMM"
    works_on_parts = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        *,
        steps: int,
        rho: Sequence[float] = RHO,
        update_every: int | None = None,
        harden_at: float = 0.5,
        zero_only: bool = False,
    ) -> None:
        self.timeline = timeline(steps, rho, update_every, harden_at)
        self.zero_only = zero_only
        self.history: list[Residuals] = []
        super().__init__(model, optimizer, plan, steps)
        self._start_stage()

    @property
    def phase(self) -> str:
        return "regularise" if self.step < self.timeline.harden_step else "tune"

    @property
    def rho(self) -> float:
        """The penalty that the next step applies: 0 after hardening."""
        return self.timeline.rho[self.timeline.stage(self.step)] if self.phase == "regularise" else 0.0

    def before_step(self, grads: Mapping[str, Tensor], scale: Tensor | float) -> None:
        if self.phase != "regularise":
            return
        for name, grad in grads.items():
            pull = self.weights[name] - self.z[name] + self.u[name]
            if self.zero_only:
                pull = pull.masked_fill(self.targets[name], 0)
            grad.add_(pull.to(grad.dtype) * (self.rho * scale))

    def after_step(self) -> None:
        line = self.timeline
        if self.step > line.harden_step:
            return
        if self.step == line.harden_step:
            self.harden()
            self.z, self.u, self.targets = {}, {}, {}
        elif self.step in line.bounds:
            self._start_stage()
        elif line.updates(self.step):
            self._update()

    def progress(self) -> Progress:
        return replace(super().progress(), residuals=self.history[-1] if self.history else None)

    def settings(self) -> dict[str, Any]:
        line = self.timeline
        return {
            "rho": list(line.rho),
            "bounds": list(line.bounds),
            "update_every": line.update_every,
            "zero_only": self.zero_only,
        }

    def own_state(self) -> dict[str, Any]:
        tensors = {"z": self.z, "u": self.u, "targets": self.targets} if hasattr(self, "z") else {}
        return {
            **{key: {name: value.clone() for name, value in group.items()} for key, group in tensors.items()},
            "history": [asdict(residuals) for residuals in self.history],
        }

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        self.z, self.u, self.targets = (
            {name: self.placed(name, value) for name, value in state[key].items()} for key in ("z", "u", "targets")
        )
        self.history = [Residuals(**residuals) for residuals in state["history"]]

    def _start_stage(self) -> None:
        wide = _wide(self.weights)
        self.u = {name: torch.zeros_like(weight) for name, weight in wide.items()}
        self._project(wide)

    def _update(self) -> None:
        wide, before = _wide(self.weights), self.z
        self._project({name: weight + self.u[name] for name, weight in wide.items()})
        self.u = {name: self.u[name] + weight - self.z[name] for name, weight in wide.items()}
        size = max(_norm(wide), torch.finfo(torch.float32).tiny)
        gaps = {name: weight - self.z[name] for name, weight in wide.items()}
        moves = {name: z - before[name] for name, z in self.z.items()}
        self.history.append(Residuals(self.step, self.rho, _norm(gaps) / size, _norm(moves) / size))

    def _project(self, points: Mapping[str, Tensor]) -> None:
        self.targets = self.decide(points)
        self.z = {name: point.masked_fill(~self.targets[name], 0) for name, point in points.items()}


def _wide(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Detached copies: Z and U are constants of a training step. At least float32, so that small updates add up.
    return {
        name: weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
        for name, weight in weights.items()
    }


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([whole(t.double().square().sum()).cpu() for t in tensors.values()]).sum().sqrt())
