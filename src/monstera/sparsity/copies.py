"""A copy of a model with the holes of a plan."""

from __future__ import annotations

import copy

import torch
from torch import nn

from monstera.sparsity.plan import Plan


def projected_copy(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a copy of `model` with its planned weights projected: what `Plan.project` gives, by magnitude, untrained.

    The model is not changed; the copy is in its mode. An empty plan gives a plain copy.

    Raises:
        PlanError: the plan does not fit the model, or a weight is NaN.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> int(projected_copy(model, Plan.uniform(model, "4x1", 0.25))[0].weight.count_nonzero())
        16
    """
    copied = copy.deepcopy(model)
    weights = plan.weights(copied)
    with torch.no_grad():
        for name, projected in plan.project(weights, plan.layouts(copied)).items():
            weights[name].copy_(projected)
    return copied
