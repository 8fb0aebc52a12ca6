"""What a pruner asks of an optimizer: whether it holds the weights, and what kind of step it is about to take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def need_weights(optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter]) -> None:
    """Refuse an optimizer that does not hold all of the planned weights.

    Raises:
        ValueError: names the weights that it does not hold.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if missing := [name for name, weight in weights.items() if id(weight) not in held]:
        raise ValueError(
            f"the optimizer does not hold the planned weights {', '.join(missing)}; "
            "build it from model.parameters() of this very model, or leave them out of the plan"
        )


def closure_of(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
    """The closure among the arguments that a hook on `step` is given, None if there is none."""
    # torch passes the optimizer itself along with the arguments of step().
    given = [value for value in (*args, *kwargs.values()) if value is not optimizer]
    return next((value for value in given if callable(value)), None)


def skips_update(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this step changes nothing because mixed precision found gradients that are not finite."""
    # Fused optimizers are stepped even when the gradient scaler found Inf, and skip the update by themselves.
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found.item())
