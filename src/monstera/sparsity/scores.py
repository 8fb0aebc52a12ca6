"""Scores: how much each weight matters. They add up: the score of a group is the sum over its weights."""

from __future__ import annotations

import torch
from torch import Tensor


def widened(values: Tensor) -> Tensor:
    """The values in the widest float the device has, so that squares neither underflow nor overflow; detached."""
    values = values.detach()
    if values.is_complex():
        values = values.abs()
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def magnitude(weight: Tensor) -> Tensor:
    """The squared weights, in float64 (float32 where the device has no more), detached.

    Squared, because these add up to the squared Frobenius norm of a group: keeping the groups of largest sum is the
    Euclidean projection, and for single weights the ranking is that of the absolute value.
    """
    return widened(weight).square()
