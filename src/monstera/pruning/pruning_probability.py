"""How likely groups are to be pruned: what an update does to it, and masks drawn by it. Pure functions.

Probabilities are float64 `[groups]` on the CPU, of all groups that share one budget. A group of probability 1 is dead.

Source: H. Wang et al., "Structured Probabilistic Pruning for Convolutional Neural Network Acceleration", BMVC 2018,
arXiv 1709.06994, equations 3 and 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monstera.pruning.streams import stream

# 20 times 0.05 is 1 for us, whatever the sum of floats says.
_SLACK = 1e-9
# exp of more overflows; a probability has long been 0 by then.
_MOST = 500.0


def rank_delta(ranks: Tensor, to_prune: int, increment: float, centre: float) -> Tensor:
    """What an update adds to the probability of groups, by their rank: falling, and exactly 0 at rank `to_prune`.

    The curve falls from `increment` at rank 0 like an exponential to `centre * increment`, and is mirrored from there
    through that point, so that it falls ever faster below 0.

    Args:
        ranks: whole numbers, 0 for the least group of those not yet pruned.
        to_prune: how many groups are still to be pruned, 1 or more (the paper's R N_c at the start).
        increment: the paper's A.
        centre: the paper's u, in (0, 1): the point of symmetry as a fraction of A.

    Returns:
        float64 of the shape of `ranks`.
    """
    alpha = math.log(2 / centre) / to_prune
    symmetric = -math.log(centre) / alpha
    r = ranks.to(torch.float64)
    falling = increment * torch.exp(-alpha * r)
    mirrored = 2 * centre * increment - increment * torch.exp((alpha * (r - 2 * symmetric)).clamp_max(_MOST))
    # To the last bit: the group after the last one to prune must not creep towards 1.
    return torch.where(r < symmetric, falling, mirrored).masked_fill(ranks == to_prune, 0)


def updated(probability: Tensor, norms: Tensor, to_prune: int, increment: float, centre: float) -> Tensor:
    """The probabilities after one update.

    Never more than `to_prune` groups are dead in all: only groups of a rank below what is still to be pruned rise. Once
    they are, all others get 0 for good.

    Args:
        probability: before; groups of probability 1 are neither ranked nor moved.
        norms: of the groups; of equal ones the last has the lower rank, as the first survives.
        to_prune: how many groups are to be dead in the end.
        increment, centre: see `rank_delta`.
    """
    living = probability < 1
    left = to_prune - int((~living).sum())
    result = probability.clone()
    if left > 0:
        moved = result[living] + rank_delta(ranked(norms[living]), left, increment, centre)
        result[living] = moved.clamp(0, 1).masked_fill(moved > 1 - _SLACK, 1)
    return result if int((result == 1).sum()) < to_prune else (result == 1).to(torch.float64)


def settled(probability: Tensor, norms: Tensor, to_prune: int) -> Tensor:
    """The end of it: 1 for exactly `to_prune` groups, those likeliest to be pruned, of equals the least; else 0."""
    order = ranked(norms).argsort()
    order = order[probability[order].argsort(descending=True, stable=True)]
    return torch.zeros_like(probability).index_fill_(0, order[:to_prune], 1)


def ranked(norms: Tensor) -> Tensor:
    """How many norms come before each, from the least on; of equal ones the last comes first."""
    order = norms.argsort(descending=True, stable=True).flip(0)
    return torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))


def drawn(probability: Tensor, seed: int, step: int, name: str) -> Tensor:
    """Which groups live in a step: bool, each with probability `1 - p`, decided by (seed, step, name) alone."""
    chance = torch.rand(probability.shape, dtype=torch.float64, generator=stream(seed, name, step))
    # Chances are below 1: the dead stay dead.
    return chance >= probability
