"""What projecting costs really, layer by layer: a check of estimates, or an estimate by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from monstera.sparsity import Plan


def loss_after_projection(model: nn.Module, plan: Plan, evaluate: Callable[[nn.Module], float]) -> dict[str, float]:
    """Project one planned weight at a time and evaluate the model; each weight is put back before the next.

    Args:
        plan: the holes; entries of scope "network" compete by themselves here.
        evaluate: called with the model as it is, in the mode it is in; a loss, an accuracy or any other number.

    Returns:
        What `evaluate` answered for each planned weight, by name, in the plan's order.

    Raises:
        PlanError: the plan does not fit the model, or a weight is NaN.
    """
    weights, layouts = plan.weights(model), plan.layouts(model)
    answers = {}
    for name, weight in weights.items():
        before = weight.detach().clone()
        projected = Plan({name: plan[name]}).project({name: weight}, layouts)[name]
        try:
            with torch.no_grad():
                weight.copy_(projected)
            answers[name] = evaluate(model)
        finally:
            with torch.no_grad():
                weight.copy_(before)
    return answers
