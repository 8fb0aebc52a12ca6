"""How large blocks should be: the smallest that run about as fast as any, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from monstera.sparsity import Block, Layout, Pattern

# How much longer than the fastest a smaller block may take.
WITHIN = 0.05


def choose_block(times_ms: Mapping[Pattern, float], sizes: Mapping[Pattern, float], within: float = WITHIN) -> Pattern:
    """Choose the smallest block whose time is within a share of the fastest candidate's.

    Size mostly decides speed, density mostly decides accuracy, and at equal density smaller blocks keep more of what
    matters; so of blocks about equally fast the smallest is best, and no training is needed to know it.

    Args:
        times_ms: what the layer takes with each candidate, all at one density; not empty.
        sizes: weights in a group of each candidate, see `weights_per_group`. Of equal sizes the faster wins, then the
            first.
        within: 0.05 allows 5 % more than the fastest.

    Raises:
        ValueError: there is no candidate, or `within` is negative.

    Source: W. Niu et al., "GRIM", TPAMI 2022, arXiv 2108.11033: that block size and rate are chosen one after the other
    is theirs; the procedure and the 5 % are recalled or ours. Theirs times random masks of each layer, ours asks a cost
    model, which may have timed them.
    """
    if not times_ms or within < 0:
        raise ValueError(f"expected candidates and within >= 0, got {len(times_ms)} candidates and within={within}")
    limit = min(times_ms.values()) * (1 + within)
    return min((p for p in times_ms if times_ms[p] <= limit), key=lambda p: (sizes[p], times_ms[p]))


def weights_per_group(pattern: Pattern, shape: torch.Size | tuple[int, ...], layout: Layout) -> float:
    """How many weights share a fate, on average: all weights by what the pattern counts as kept or not."""
    if isinstance(pattern, Block):
        return torch.Size(shape).numel() / pattern.count(shape, layout)
    return torch.Size(shape).numel() / pattern.alive(torch.zeros(()).expand(shape), layout).numel()
