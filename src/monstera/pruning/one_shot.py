"""Prune at once, without training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from monstera.pruning.batch_norm import reestimate_batch_norm
from monstera.pruning.distributed import decided, reshard, tied, whole_weights
from monstera.pruning.holes import punch_
from monstera.pruning.report import PruneReport
from monstera.pruning.tying import tie_
from monstera.sparsity import Plan


def prune(model: nn.Module, plan: Plan, batches: Iterable[Any] | None = None) -> PruneReport:
    """Project every planned weight, in place: the least groups become zero, and values what their pattern asks for.

    Args:
        batches: if given, batch-norm statistics are estimated anew on them (see `reestimate_batch_norm`).

    Raises:
        PlanError: the plan does not fit the model, or a weight is NaN.
        TypeError: the model was wrapped in torch's first FSDP.

    Example:
        >>> from monstera.sparsity import Plan
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> report = prune(model, Plan.uniform(model, "4x1", 0.25))
        >>> int(model[0].weight.count_nonzero())
        16
    """
    reshard(model)
    weights, layouts = plan.weights(model), plan.layouts(model)
    masks = decided(plan, weights, layouts, weights)
    ties = tied(plan, weights, masks, layouts)
    punch_(weights, masks)
    tie_(weights, ties)
    with whole_weights(model, plan):
        report = plan.verify(model)
    used = 0 if batches is None else reestimate_batch_norm(model, batches)
    return PruneReport("one shot", report, 0, 0, used)
