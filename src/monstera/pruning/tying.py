"""Keep weights and optimizer state tied where a constraint on values has bound them. Everything here edits in place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from monstera.sparsity import Ties

# State that has the sign of the gradient in torch's own optimizers. Of others, what is negative somewhere has one.
_SIGNED = ("momentum_buffer", "exp_avg", "grad_avg", "prev")


@torch.no_grad()
def tie_(weights: Mapping[str, Tensor], ties: Mapping[str, Ties]) -> None:
    """Set each weight that has ties to the nearest one that obeys them, to the bit."""
    for name, bound in ties.items():
        weights[name].copy_(bound.nearest(weights[name]))


@torch.no_grad()
def tie_grads_(grads: Mapping[str, Tensor], ties: Mapping[str, Ties]) -> None:
    """Leave of each gradient the part that moves tied weights together."""
    for name, grad in grads.items():
        if name in ties:
            grad.copy_(ties[name].part(grad))


@torch.no_grad()
def tie_state_(optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor], ties: Mapping[str, Ties]) -> None:
    """Tie the optimizer's state of tied weights (all of the weight's shape) alike: momentum by sign, squares without.

    Without this the momentum from before would go on pulling tied weights apart.
    """
    for name, bound in ties.items():
        weight = weights[name]
        for key, value in optimizer.state.get(weight, {}).items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                signed = key in _SIGNED or bool((value < 0).any())
                value.copy_(bound.part(value) if signed else bound.part_of_squares(value))
