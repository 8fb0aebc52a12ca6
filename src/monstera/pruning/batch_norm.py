"""Batch-norm statistics that fit the weights as they are now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from monstera.modes import evaluating


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, batches: Iterable[Any]) -> int:
    """Replace every batch norm's running mean and variance by the plain average over `batches`, in place.

    Only batch norms are switched to training mode for it (dropout stays off); the modes are put back. Parameters do not
    change. A model without batch norm is not run.

    Args:
        batches: what the model takes: a tensor, a tuple or list of which the first item is taken (so that a data loader
            of inputs and labels fits), or a dict of keyword arguments.

    Returns:
        How many batches were used.

    Raises:
        ValueError: there are batch norms, but no batches.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    try:
        with evaluating(model):
            for norm in norms:
                norm.train()
            return _average(model, norms, batches)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _average(model: nn.Module, norms: list[_BatchNorm], batches: Iterable[Any]) -> int:
    count = 0
    for batch in batches:
        if count == 0:
            # Only now, so that an empty iterable leaves the statistics as they were.
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's word for the cumulative average
        _call(model, batch)
        count += 1
    if count == 0:
        raise ValueError("batch norm: no batches were given to estimate its statistics from; pass at least one")
    return count


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    else:
        model(batch[0] if isinstance(batch, tuple | list) else batch)
