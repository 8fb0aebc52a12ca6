"""N:M and other patterns trained from scratch: dense weights learn behind their own projection (STE, SR-STE)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from monstera.pruning.base import Pruner
from monstera.pruning.timeline import step_at
from monstera.sparsity import Plan

DECAY = 2e-4


@final
class SRSTE(Pruner):
    """Sparse-refined straight-through estimator: the forward pass sees the projection of weights that all learn.

    Every step moves dense weights W by the gradient at their projection S(W) plus `decay * (1 - mask) * W`, which draws
    what is pruned towards zero, so that masks settle; then the parameters hold S(W) of the new W. With `decay=0` this
    is the straight-through estimator, whose masks keep changing. Made for N:M patterns, and any other works: with one
    that constrains values, this is training behind quantised or unified weights.

    Ordinary weight decay of the optimizer moves all of W. Optimizers that divide by second moments (Adam) lose accuracy
    here, as the gradients of what is pruned are noise to them; the method was published with SGD.

    Args:
        steps: optimizer steps of all phases together.
        decay: how strongly pruned weights are drawn to zero (the paper's lambda_W).
        harden_at: the fraction of `steps` after which masks and ties are fixed and the dense weights dropped.

    Raises:
        ValueError: a negative decay, or `harden_at` outside (0, 1]; see also `Pruner`.

    Source: A. Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", ICLR 2021,
    arXiv 2102.04010; equation and default as in the released code. The paper never fixes masks before the end.
    """

    name = "SRSTE"
    works_on_parts = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        *,
        steps: int,
        decay: float = DECAY,
        harden_at: float = 1.0,
    ) -> None:
        if not decay >= 0:
            raise ValueError(f"decay: expected 0 or more, got {decay}")
        self.decay = decay
        self.harden_step = steps if harden_at == 1 else step_at(harden_at, steps, "harden_at")
        super().__init__(model, optimizer, plan, steps)

    def start(self) -> None:
        self._choose()

    @property
    def phase(self) -> str:
        return "learn" if self.step < self.harden_step else "tune"

    @property
    def holds_holes(self) -> bool:
        """Not before masks are fixed: what is pruned learns as well."""
        return self.phase == "tune"

    def before_step(self, grads: Mapping[str, Tensor], scale: Tensor | float) -> None:
        if self.phase == "tune":
            return
        for name, weight in self.weights.items():
            weight.copy_(self.dense[name])
        for name, grad in grads.items():
            pull = self.dense[name].masked_fill(self.masks[name], 0)
            grad.add_(pull.to(grad.dtype) * (self.decay * scale))

    def after_step(self) -> None:
        if self.step > self.harden_step:
            return
        self._choose()
        if self.step == self.harden_step:
            self.dense = {}

    def settings(self) -> dict[str, Any]:
        return {"decay": self.decay, "harden_step": self.harden_step}

    def own_state(self) -> dict[str, Any]:
        return {"dense": {name: weight.clone() for name, weight in self.dense.items()}}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        self.dense = {name: self.placed(name, value) for name, value in state["dense"].items()}

    def _choose(self) -> None:
        self.dense = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.masks = self.decide(self.dense)
        self.ties = self.bind(self.dense, self.masks)
