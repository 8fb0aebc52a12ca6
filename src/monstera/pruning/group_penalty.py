"""What group lasso and its reweighted form share: a penalty on the norms of groups, then hard holes, then tuning."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monstera.pruning.base import Pruner
from monstera.pruning.distributed import part_of, whole
from monstera.pruning.timeline import timeline
from monstera.sparsity import Pattern, PatternLike, Plan, magnitude, pattern

# A group of norm 0 has no direction to be pulled in.
_TINY = 1e-30


class GroupPenalty(Pruner):
    """Regularise for the first `harden_at` of `steps`, prune to the plan, tune under fixed masks.

    Groups are those of each weight's own pattern, or of every pattern in `groups`. Several `rounds` do all this one
    after the other, on the way to the plan's densities (see `Timeline.target`).

    Raises:
        ValueError: a strength below 0, `harden_at` outside (0, 1), or no round; see also `Pruner`.
    """

    works_on_parts = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        steps: int,
        strength: float,
        harden_at: float,
        rounds: int,
        groups: Sequence[PatternLike] | None,
    ) -> None:
        if not strength >= 0:
            raise ValueError(f"strength: expected 0 or more, got {strength}")
        self.strength, self.timeline = strength, timeline(steps, rounds, 1, None, harden_at)
        self._groups = None if groups is None else tuple(pattern(like) for like in groups)
        super().__init__(model, optimizer, plan, steps)

    @abstractmethod
    def pull(self, name: str, norms: Sequence[Tensor]) -> Tensor:
        """The gradient of the penalty of one weight, for a strength of 1.

        Args:
            name: of the weight.
            norms: for each family of groups, the norm of the group that every element is in: never 0.
        """

    @property
    def phase(self) -> str:
        return "regularise" if self.step < self.timeline.harden_step(self.step) else "tune"

    def norms(self, name: str) -> list[Tensor]:
        """For each family of groups, the norm of the group that every element of a weight is in: never 0."""
        weight, layout = self.weights[name], self.layouts[name]
        squares = magnitude(whole(weight))
        families = [sums for family in self.patterns(name) for sums in family.sums(squares, layout)]
        return [part_of(sums.sqrt().clamp_min(_TINY), weight) for sums in families]

    def patterns(self, name: str) -> Sequence[Pattern]:
        """The patterns whose groups are penalised in a weight."""
        return (self.plan[name].pattern,) if self._groups is None else self._groups

    def before_step(self, grads: Mapping[str, Tensor], scale: Tensor | float) -> None:
        if self.phase == "regularise":
            for name, grad in grads.items():
                grad.add_(self.pull(name, self.norms(name)).to(grad.dtype) * (self.strength * scale))

    def after_step(self) -> None:
        line = self.timeline
        if self.step < self.steps and self.step in line.starts:
            self.ties = {}  # loosed, as the weights of a round are to find their own
        elif self.step == line.rounds[-1][-1]:
            self.harden()
        elif self.step == line.harden_step(self.step):
            self.harden_to(line.target(self.plan, self.step))

    def own_state(self) -> dict[str, Any]:
        return {}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Step and masks are all there is."""

    def settings(self) -> dict[str, Any]:
        groups = None if self._groups is None else [str(family) for family in self._groups]
        rounds = [list(bounds) for bounds in self.timeline.rounds]
        return {"strength": self.strength, "rounds": rounds, "groups": groups}
