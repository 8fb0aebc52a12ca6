"""How the learning rate goes over a training."""

from __future__ import annotations

import math
from typing import Literal


def lr_factor(
    step: int, steps: int, *, warmup: float = 0.0, decay: Literal["constant", "linear", "cosine"] = "cosine"
) -> float:
    """Return what the learning rate is multiplied by at a step counted from 0; never exactly 0.

    Args:
        warmup: the part of all steps, below 1, in which it rises along a line.
        decay: how it goes on from 1: it stays, or falls to 0 along a line or a cosine.
    """
    warm = round(warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    way = (step - warm) / max(1, steps - warm)
    if decay == "constant":
        return 1.0
    return 1 - way if decay == "linear" else (1 + math.cos(math.pi * way)) / 2
