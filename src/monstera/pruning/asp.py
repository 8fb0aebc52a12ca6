"""Automatic sparsity: prune a trained network at once, train it again under the masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from monstera.pruning.base import Pruner
from monstera.sparsity import Plan


@final
class ASP(Pruner):
    """Prune the groups of least norm when attached, once, and keep the holes while training is repeated.

    Attach it to a trained network, then train as the dense network was: same optimizer, learning rates and epochs.
    Made for N:M patterns, and any other works. It is `prune` and `hold` with the state and report of a method.

    Args:
        steps: optimizer steps of the second training.

    Raises:
        ValueError: see `Pruner`.

    Source: A. Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv 2104.08378, and NVIDIA's ASP. Theirs
    ranks sums of magnitudes, which are norms for single weights; ours takes norms of blocks too. Theirs passes over
    layers that its kernels do not run; here the plan says which.
    """

    name = "ASP"
    works_on_parts = True

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan, *, steps: int) -> None:
        super().__init__(model, optimizer, plan, steps)

    def start(self) -> None:
        self.harden()

    @property
    def phase(self) -> str:
        return "tune"

    def before_step(self, grads: Mapping[str, Tensor], scale: Tensor | float) -> None:
        """Nothing to add: the loss alone moves the weights."""

    def after_step(self) -> None:
        """Masks stay."""

    def settings(self) -> dict[str, Any]:
        return {}

    def own_state(self) -> dict[str, Any]:
        return {}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Step and masks are all there is."""
