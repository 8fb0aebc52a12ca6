"""What holes cost in accuracy, estimated by one projection for each layer, pattern and density. Nothing is trained.

The loss of a network is taken as quadratic around its weights, each weight by itself: projecting w to P(w) costs
`sum g (P(w) - w) + 1/2 sum F (P(w) - w)^2` over the weights of a layer. F is the diagonal of a Fisher or Gauss-Newton
matrix, from calibration batches; without any it is `2 / |w|^2`, so that a layer costs the share of its squared
magnitude that goes. g is the gradient, where a loss is given.

That holds near the weights only. It says that a layer that loses everything costs no more than the sum of its parts,
yet nothing passes it any more. So of the second sum, q of at most t, not q is taken but `-t log(1 - q / t)`: the same
for small q, and without bound for a layer that is emptied. Without data each group that goes adds `-log(1 - s)`, where
s is its LAMP score.

Source: for the logarithm, J. Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021,
arXiv 2010.07611: each weight, from the least on, scores its share of the squared magnitude that is left. How we differ:
groups for weights, and the same bend for Fisher matrices, which is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monstera.sparsity import Block, Pattern, WeightView, find_view, magnitude
from monstera.sparsity.scores import widened
from monstera.sparsity.selection import kept_groups

# Of what a layer has; what is kept may count for nothing.
_NEARLY_ALL = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class Curvature:
    """How the loss bends, and slopes, at the weights of a network, by name and in each weight's shape.

    Attributes:
        bend: the diagonal of the second derivative, or what stands for it; never negative.
        slope: the gradient; empty where it is not known or taken as zero.
    """

    bend: Mapping[str, Tensor]
    slope: Mapping[str, Tensor]


def by_magnitude(model: nn.Module, names: Sequence[str]) -> Curvature:
    """The curvature that makes a layer's loss the share of its squared magnitude that goes. For want of data."""
    bend = {}
    for name in names:
        weight = find_view(model, name).weight
        total = float(magnitude(weight).sum())
        bend[name] = torch.tensor(2 / total if total else 0.0, device=weight.device).expand(weight.shape)
    return Curvature(bend, {})


def losses_of(
    view: WeightView, pattern: Pattern, densities: Sequence[float], bend: Tensor, slope: Tensor | None = None
) -> list[float]:
    """Estimate what projecting one weight costs at each density, all with one pattern.

    Holes are those of the pattern's own projection, by magnitude, as methods will choose them. Groups of blocks are
    ranked once for all densities.

    Args:
        bend: of the weight's shape, see `Curvature`.
        slope: the same, or None for zero.

    Raises:
        PatternError: a density does not fit the pattern, or the weight is NaN.
    """
    if isinstance(pattern, Block) and pattern.scope == "layer":
        sums = _ranked_once(view, pattern, densities, bend, slope)
    else:
        sums = [_moved(view, pattern, density, bend, slope) for density in densities]
    total = float((0.5 * widened(bend) * magnitude(view.weight)).sum())
    return [first + strained(second, total) for first, second in sums]


def strained(lost: float, total: float) -> float:
    """What losing so much of what a layer has costs: as much, as long as it is little; see the head of this module."""
    return -total * math.log1p(-min(lost / total, _NEARLY_ALL)) if total > 0 else 0.0


def _ranked_once(
    view: WeightView, block: Block, densities: Sequence[float], bend: Tensor, slope: Tensor | None
) -> list[tuple[float, float]]:
    """The sums of first and second order for each density."""
    square = magnitude(view.weight)
    # Stable and descending: of equals the first survive, as in the projection itself.
    order = block.group_scores(square, view.layout).flatten().argsort(descending=True, stable=True)
    kept = [kept_groups(block.density(density), len(order)) for density in densities]

    def gone(each: Tensor) -> list[float]:
        ranked = block.group_scores(each, view.layout).flatten()[order]
        # Summed from the least group on, so that small sums are not differences of large ones.
        tails = ranked.flip(0).cumsum(0).flip(0)
        return [float(tails[k]) if k < len(order) else 0.0 for k in kept]

    firsts = [0.0] * len(kept) if slope is None else gone(-widened(slope) * widened(view.weight))
    return [*zip(firsts, gone(0.5 * widened(bend) * square), strict=True)]


def _moved(
    view: WeightView, pattern: Pattern, density: float, bend: Tensor, slope: Tensor | None
) -> tuple[float, float]:
    """The same at one density for patterns of any kind, also those that move what they keep."""
    move = widened(pattern.project(view, density)) - widened(view.weight)
    second = 0.5 * (widened(bend) * move.square()).sum()
    return 0.0 if slope is None else float((widened(slope) * move).sum()), float(second)
