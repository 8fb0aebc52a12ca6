"""What the compiler's model of costs says of a mask, without compiling anything."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from monstera.compiler.price import spmm_price, spmv_price
from monstera.compiler.targets import TARGETS, Target
from monstera.search.costs.signature import Signature
from monstera.sparsity import Layout, Pattern

# From so many pixels on, a product runs over planes; with fewer it streams its weights past the vectors.
_PLANES = 16


def price_of(alive: np.ndarray, signature: Signature, target: Target) -> tuple[float, int]:
    """Return the price of a mask in floating-point operations at the peak, and the bytes of its weights and indices.

    Rows are taken in their natural order, in the blocks that are cheapest.

    Args:
        alive: bool `[slices, out, in * positions]`, the weight in canonical form.
    """
    pixels = max((use.pixels for use in signature.uses), default=0)
    if not pixels:
        return 0.0, 4 * int(alive.sum())
    if pixels >= _PLANES:
        price = spmm_price(-(-pixels // target.lanes), target)
    else:
        price = spmv_price(pixels, int(alive.sum()), target)
    best, stored = float("inf"), 0
    for size in target.tiles:
        if alive.shape[1] % size:
            continue
        lengths = alive.reshape(len(alive), -1, size, alive.shape[2]).any(2).sum(-1).ravel()
        cost = float(price.of(size, lengths).sum() + price.call)
        if cost < best:
            best, stored = cost, 4 * int(lengths.sum()) * (size + 1)
    # Parts of a weight each have a part of its rows; a shared weight has all of them in every use.
    uses = signature.macs / (alive.size * pixels)
    return uses * best * price.flop, stored


@lru_cache(maxsize=4096)
def expected_price(signature: Signature, pattern: Pattern | None, density: float, target: str) -> tuple[float, int]:
    """The same for a pattern on random weights; None is dense."""
    layout = Layout(signature.parts, signature.groups, signature.transposed)
    slices, out, in_, positions = layout.extents(signature.shape)
    if pattern is None:
        return price_of(np.ones((slices, out, in_ * positions), bool), signature, TARGETS[target])
    scores = torch.rand(signature.shape, generator=torch.Generator().manual_seed(0))
    mask = layout.to_canonical(pattern.mask(scores, density, layout))
    return price_of(mask.reshape(slices, out, -1).numpy(), signature, TARGETS[target])
