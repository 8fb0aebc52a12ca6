"""Group lasso: whole groups of weights are driven to zero while the network trains (structured sparsity learning)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from monstera.pruning.group_penalty import GroupPenalty
from monstera.sparsity import PatternLike, Plan

THRESHOLD = 1e-4


@final
class GroupLasso(GroupPenalty):
    """Add `strength * sum of ||w_g||` over all groups g to the loss, prune to the plan, tune under fixed masks.

    The norm is the square root of the sum of squares, without a factor for the size of the group. What structures
    disappear is said by `groups`: filters and channels ("filter", "channel"), filter shapes ("column"), rows and
    columns of the matrix product ("filter", "column"), two-dimensional filters ("kernel"), whole layers beside a
    shortcut ("layer"), or by default the groups of the plan's own patterns. A convolution in front of a batch norm
    escapes the penalty by its scale: weight decay on the norm's factors holds against it.

    Args:
        steps: optimizer steps of all phases together.
        strength: weight of the penalty (the paper's lambda_g).
        harden_at: the fraction of a round after which the weights are projected for good.
        groups: patterns or their short names; families add up where there are several.
        l1: weight of the sum of absolute values beside the groups (sparse group lasso).
        proximal: shrink exactly after every step, by the learning rate of the weight's parameter group, instead of
            following the gradient: groups become exact zeros without a threshold. The step size is exact for SGD.
        threshold: after every step, single weights smaller than this become 0, as in the paper's code; not in the
            proximal form.
        rounds: how often to regularise, prune and tune, on the way to the plan's densities; see `ADMM`.

    Raises:
        ValueError: a negative strength, l1 or threshold, `harden_at` outside (0, 1), or no round; see also `Pruner`.

    Source: W. Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NIPS 2016, equation 2 and the
    released code; N. Simon et al. 2013 (sparse group lasso); N. Parikh and S. Boyd 2014, section 6.5.4 (proximal form).
    """

    name = "GroupLasso"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        *,
        steps: int,
        strength: float = 1e-3,
        harden_at: float = 0.5,
        groups: Sequence[PatternLike] | None = None,
        l1: float = 0.0,
        proximal: bool = False,
        threshold: float = THRESHOLD,
        rounds: int = 1,
    ) -> None:
        if not l1 >= 0 or not threshold >= 0:
            raise ValueError(f"l1 and threshold: expected 0 or more, got {l1} and {threshold}")
        self.l1, self.proximal, self.threshold = l1, proximal, threshold
        super().__init__(model, optimizer, plan, steps, strength, harden_at, rounds, groups)

    def pull(self, name: str, norms: Sequence[Tensor]) -> Tensor:
        weight = self.weights[name].detach()
        return sum((weight / norm for norm in norms), torch.zeros_like(norms[0]))

    def before_step(self, grads: Mapping[str, Tensor], scale: Tensor | float) -> None:
        if self.proximal:
            return
        super().before_step(grads, scale)
        if self.l1 and self.phase == "regularise":
            for name, grad in grads.items():
                grad.add_(self.weights[name].detach().sign() * (self.l1 * scale))

    def after_step(self) -> None:
        if self.step <= self.timeline.harden_step(self.step - 1):
            # Looked up anew, as an optimizer that loads a state replaces its groups.
            rates = {id(p): float(group["lr"]) for group in self._optimizer.param_groups for p in group["params"]}
            for name, weight in self.weights.items():
                if self.proximal:
                    self._shrink(name, rates[id(weight)])
                else:
                    weight.masked_fill_(weight.abs() < self.threshold, 0)
        super().after_step()

    def _shrink(self, name: str, lr: float) -> None:
        weight = self.weights[name]
        weight.copy_(weight.sign() * (weight.abs() - lr * self.l1).clamp_min(0))
        # One family after the other: each shrinks what those before it have left.
        for family in range(len(self.norms(name))):
            weight.mul_((1 - lr * self.strength / self.norms(name)[family]).clamp_min(0).to(weight.dtype))

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "l1": self.l1, "proximal": self.proximal, "threshold": self.threshold}
