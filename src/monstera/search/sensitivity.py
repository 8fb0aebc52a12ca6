"""What holes cost in accuracy, estimated by one projection for each layer, pattern and density. Nothing is trained.

The loss of a network is taken as quadratic around its weights, each weight by itself: projecting w to P(w) costs
`q = 1/2 sum F (P(w) - w)^2` over the weights of a layer. F is the diagonal of a Fisher or Gauss-Newton matrix, from
calibration batches; without any it is `2 / |w|^2`, so that q is the share of the squared magnitude that goes.

That holds near the weights only. It says that a layer that loses everything costs no more than the sum of its parts t,
yet nothing passes it any more. So not q is taken but `-t log(1 - q / t)`: the same for small q, and without bound for a
layer that is emptied. Without data each group that goes adds `-log(1 - s)`, where s is its LAMP score.

Source: for the logarithm, J. Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021,
arXiv 2010.07611: each weight, from the least on, scores its share of the squared magnitude that is left. How we differ:
groups for weights, and the same for Fisher matrices, which is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from monstera.sparsity import Block, Pattern, WeightView, find_view, magnitude
from monstera.sparsity.scores import widened
from monstera.sparsity.selection import kept_groups

Curvature: TypeAlias = Mapping[str, Tensor]
"""How the loss bends at each weight: the diagonal of its second derivative, or what stands for it, by name."""

# Of what a layer has; what is kept may count for nothing.
_NEARLY_ALL = 1 - 1e-9


def by_magnitude(model: nn.Module, names: Sequence[str]) -> Curvature:
    """The curvature that makes a layer's loss the share of its squared magnitude that goes. For want of data."""
    found = {}
    for name in names:
        weight = find_view(model, name).weight
        total = float(magnitude(weight).sum())
        found[name] = torch.tensor(2 / total if total else 0.0, device=weight.device).expand(weight.shape)
    return found


def losses_of(view: WeightView, pattern: Pattern, densities: Sequence[float], curvature: Tensor) -> list[float]:
    """Estimate what projecting one weight costs at each density, all with one pattern.

    Holes are those of the pattern's own projection, by magnitude, as methods will choose them. Groups of blocks are
    ranked once for all densities.

    Args:
        curvature: of the weight's shape; never negative.

    Raises:
        PatternError: a density does not fit the pattern, or the weight is NaN.
    """
    each = 0.5 * widened(curvature) * magnitude(view.weight)
    if isinstance(pattern, Block) and pattern.scope == "layer":
        lost = _ranked_once(view, pattern, densities, each)
    else:
        lost = [_moved(view, pattern, density, curvature) for density in densities]
    total = float(each.sum())
    return [strained(q, total) for q in lost]


def strained(lost: float, total: float) -> float:
    """What losing so much of what a layer has costs: as much, as long as it is little; see the head of this module."""
    return -total * math.log1p(-min(lost / total, _NEARLY_ALL)) if total > 0 else 0.0


def _ranked_once(view: WeightView, block: Block, densities: Sequence[float], each: Tensor) -> list[float]:
    """What goes at each density, `each` being what a weight is worth."""
    energy = block.group_scores(magnitude(view.weight), view.layout).flatten()
    # Stable and descending: of equals the first survive, as in the projection itself.
    order = energy.argsort(descending=True, stable=True)
    # Summed from the least group on, so that small sums are not differences of large ones.
    tails = block.group_scores(each, view.layout).flatten()[order].flip(0).cumsum(0).flip(0)
    kept = [kept_groups(block.density(density), len(order)) for density in densities]
    return [float(tails[k]) if k < len(order) else 0.0 for k in kept]


def _moved(view: WeightView, pattern: Pattern, density: float, curvature: Tensor) -> float:
    """The same at one density for patterns of any kind, also those that move what they keep."""
    move = widened(pattern.project(view, density)) - widened(view.weight)
    return float(0.5 * (widened(curvature) * move.square()).sum())
