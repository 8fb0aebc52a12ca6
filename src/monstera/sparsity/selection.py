"""Which groups survive: exact counts, ties broken towards the lower index."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from monstera.sparsity.errors import PatternError

# A density is trusted to nine digits: 0.55 of 100 groups are 55, although 0.55 * 100 > 55 in floating point.
_SLACK = 1e-9


def kept_groups(density: float, groups: int) -> int:
    """How many of `groups` a density keeps: density * groups rounded up, at least one.

    "Rounded up" forgives a relative float error of 1e-9, so that `kept_groups(k / n, n) == k` for every n below 10^8.

    Raises:
        PatternError: the density is outside (0, 1].
    """
    if not 0 < density <= 1:
        raise PatternError(f"density is the kept fraction, in (0, 1]; got {density}")
    return max(1, math.ceil(density * groups * (1 - _SLACK)))


def kept_whole(density: float, groups: int) -> int:
    """How many of `groups` fit into a density: density * groups rounded down, with the same forgiveness."""
    return min(groups, math.floor(density * groups * (1 + _SLACK)))


def top(scores: Tensor, k: int) -> Tensor:
    """True at the k largest scores, of any shape; among equals the first in row-major order win.

    Raises:
        PatternError: a score is NaN.
    """
    flat = _without_nan(scores).flatten()
    if k >= flat.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = flat.topk(k, sorted=False).values.min()
    keep = flat > threshold
    ties = (flat == threshold).nonzero().squeeze(1)
    keep[ties[: k - int(keep.sum())]] = True
    return keep.view(scores.shape)


def affordable(value: Tensor, cost: Tensor, able: Tensor, budget: int) -> Tensor:
    """True at what has most value for its cost, as long as costs together stay within a budget; at least at one.

    Args:
        value: scores of any shape; among equals (for their cost) the first in row-major order win.
        cost: whole numbers of the same shape, 1 or more where `able`.
        able: bool; nothing else is taken.
        budget: what all that is taken may cost.

    Raises:
        PatternError: a score is NaN.
    """
    worth = torch.where(able, _without_nan(value) / cost.clamp(min=1), -math.inf).flatten()
    order = worth.argsort(descending=True, stable=True)
    taken = able.flatten()[order] & (torch.where(able, cost, 0).flatten()[order].cumsum(0) <= budget)
    taken[:1] = able.flatten()[order[:1]]
    return torch.empty_like(taken).scatter_(0, order, taken).view(value.shape)


def top_of_each(scores: Tensor, able: Tensor, k: Sequence[int]) -> Tensor:
    """True at the k[i] largest scores of row i of `[rows, n]` among those `able`; of equals the first win.

    Raises:
        PatternError: a score is NaN.
    """
    ranked = torch.where(able, _without_nan(scores), -math.inf)
    return able & (_ranks(ranked, 1) < torch.tensor(k, device=scores.device).unsqueeze(1))


def top_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """True at the n largest of every m neighbours along dimension 2 of `[slices, out, in, positions]`.

    A last, shorter run of neighbours keeps n as well, or all it has.

    Raises:
        PatternError: a score is NaN.
    """
    runs = _runs(_without_nan(scores), m, fill=-math.inf)
    # Padding stands last and so loses every tie.
    return (_ranks(runs, 3) < n).flatten(2, 3)[:, :, : scores.shape[2]]


def most_of_m(alive: Tensor, m: int) -> int:
    """The largest number of live groups among m neighbours along dimension 2; `alive` is bool, as in `top_n_of_m`."""
    return int(_runs(alive, m, fill=0).sum(3).max())


def _ranks(scores: Tensor, dim: int) -> Tensor:
    """How many scores along a dimension come before each: two stable sorts."""
    return scores.argsort(dim=dim, descending=True, stable=True).argsort(dim=dim)


def _runs(values: Tensor, m: int, fill: float) -> Tensor:
    """`[slices, out, in, positions]` -> `[slices, out, ceil(in / m), m, positions]`."""
    padded = F.pad(values, (0, 0, 0, -values.shape[2] % m), value=fill)
    return padded.unflatten(2, (-1, m))


def _without_nan(scores: Tensor) -> Tensor:
    if scores.isnan().any():
        raise PatternError(
            f"{int(scores.isnan().sum())} of {scores.numel()} groups have a NaN score; check the weights"
        )
    return scores
