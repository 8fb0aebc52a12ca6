"""Keep weights, gradients and optimizer state at zero where a mask says so. Everything here edits in place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def punch_(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set each weight to exact zero outside its mask; `masks` are bool, True where a weight is kept."""
    for name, mask in masks.items():
        weights[name].masked_fill_(~mask, 0)


@torch.no_grad()
def clear_state_(optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set the optimizer's state of dead weights (momentum, second moments: all of the weight's shape) to zero.

    Without this the momentum of a weight that just died would go on moving it, and would still be there on revival.
    """
    for name, mask in masks.items():
        weight = weights[name]
        for value in optimizer.state.get(weight, {}).values():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                value.masked_fill_(~mask, 0)
