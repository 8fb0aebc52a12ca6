"""Which blocks are pruned, which are tied and which stay as they are: the best choice under two budgets at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monstera.sparsity.selection import top


def kept_and_free(own: Tensor, tied: Tensor, kept: int, free: int) -> tuple[Tensor, Tensor]:
    """Choose `kept` blocks that live, and `free` of these that stay as they are, so that most is saved.

    A free block saves `own`, another living one `tied`, a pruned one nothing. To rank by what pruning costs and then by
    what tying costs is not best: a block that is cheap to prune may be the one that is dear to tie. With a price on
    freedom each block stands for itself, `max(own - price, tied)`, and the price is looked for that `free` blocks pay.
    Where ties leave fewer at every price, blocks are freed one move after the other, always by the best one.

    Args:
        own: what a block saves as it is, of any shape; not less than `tied`.
        tied: what it saves with tied values.
        kept: how many live, from 1 to all.
        free: how many of these are free, 0 or more.

    Returns:
        Which live and which of these are free: bool, of the shape of `own`.

    Raises:
        PatternError: a number is NaN.
    """
    if free >= kept:
        living = top(own, kept)
        return living, living.clone()
    gain = own - tied
    if free == 0:
        return top(tied, kept), torch.zeros_like(gain, dtype=torch.bool)
    living, chosen = _at_price(own, tied, kept, _price(own, tied, kept, free))
    return _filled(own, tied, living, chosen, free)


def _at_price(own: Tensor, tied: Tensor, kept: int, price: float) -> tuple[Tensor, Tensor]:
    living = top(torch.maximum(own - price, tied), kept)
    return living, living & (own - tied > price)


def _price(own: Tensor, tied: Tensor, kept: int, free: int) -> float:
    """The least price, to the last bit, that no more than `free` blocks pay."""
    low, high = 0.0, float((own - tied).max())
    if _payers(own, tied, kept, low) <= free:
        return low
    while low < (middle := low + (high - low) / 2) < high:
        payers = _payers(own, tied, kept, middle)
        low, high = (middle, high) if payers > free else (low, middle)
        if payers == free:
            break
    return high


def _payers(own: Tensor, tied: Tensor, kept: int, price: float) -> int:
    return int(_at_price(own, tied, kept, price)[1].sum())


def _filled(own: Tensor, tied: Tensor, living: Tensor, chosen: Tensor, free: int) -> tuple[Tensor, Tensor]:
    """Free more blocks, up to `free`, always by the move that gains most.

    Either a tied block is freed, or one dies and a pruned one comes to life free; no other move keeps both budgets.
    """
    shape = own.shape
    own, tied, living, chosen = (t.flatten().clone() for t in (own, tied, living, chosen))
    while missing := free - int(chosen.sum()):
        waiting = living & ~chosen
        freed = torch.where(waiting, own - tied, -math.inf)
        born, dying = torch.where(living, -math.inf, own).argmax(), torch.where(waiting, tied, math.inf).argmin()
        swap = -math.inf if living.all() else float(own[born] - tied[dying])
        best = waiting & (freed >= swap)
        if best.any():
            chosen |= best & top(freed, missing)
        else:
            living[dying], living[born], chosen[born] = False, True, True
    return living.view(shape), chosen.view(shape)
