"""Gradual magnitude pruning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from monstera.pruning.base import Pruner
from monstera.sparsity import Cubic, Plan, Schedule

RAMP = 0.7


@final
class Gradual(Pruner):
    """Prune the groups of least norm, more and more of them, while the network trains; then tune under fixed masks.

    After step t a weight of planned density d keeps the fraction `1 - (1 - d) * schedule(t)` of its groups. Groups that
    died stay dead. Patterns N:M know one density only and hold from the first update on. Values are constrained, where
    the pattern does so, when the plan is reached.

    Args:
        schedule: how much of the way to the plan is gone at a step, from 0 to 1; default a cubic over the first 70% of
            `steps`.
        update_every: steps between two choices of masks.

    Raises:
        ValueError: the schedule leaves 0..1 or does not reach 1 within `steps`; see also `Pruner`.

    Source: Zhu and Gupta 2017, "To prune, or not to prune", equation 1; theirs ranks single weights, ours groups.
    """

    name = "Gradual"
    works_on_parts = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        *,
        steps: int,
        schedule: Schedule | None = None,
        update_every: int = 10,
    ) -> None:
        self.schedule: Schedule = schedule or Cubic(0.0, 1.0, 0, max(1, round(RAMP * steps)))
        self.update_every = update_every
        if update_every < 1:
            raise ValueError(f"update_every: expected at least 1 step, got {update_every}")
        if not (0 <= self.schedule(0) <= 1 and self.schedule(steps) == 1):
            raise ValueError(
                f"schedule: expected to go from 0 to 1 within {steps} steps, got {self.schedule(0):g} at step 0 and "
                f"{self.schedule(steps):g} at step {steps}"
            )
        super().__init__(model, optimizer, plan, steps)

    @property
    def phase(self) -> str:
        return "tune" if self.schedule(self.step) == 1 else "prune"

    def before_step(self, grads: Mapping[str, Tensor], scale: Tensor | float) -> None:
        """Nothing to add: the loss alone moves the weights."""

    def after_step(self) -> None:
        way = self.schedule(self.step)
        arrives = way == 1 and (self.step == 1 or self.schedule(self.step - 1) < 1)
        if arrives:
            self.harden()
        elif way < 1 and self.step % self.update_every == 0:
            self.masks = self.decide(plan=self.plan.partway(way))

    def own_state(self) -> dict[str, Any]:
        return {}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Step and masks are all there is."""

    def settings(self) -> dict[str, Any]:
        return {"schedule": repr(self.schedule), "update_every": self.update_every}
