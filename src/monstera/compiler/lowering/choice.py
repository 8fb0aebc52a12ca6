"""Chooses how many rows share a block, by a model of the kernels' cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from monstera.compiler.packing import block_lengths, split_rows
from monstera.compiler.targets import Target

Dealt: TypeAlias = list[tuple[int, list[int]]]
Price: TypeAlias = Callable[[int, np.ndarray], float]

# Share of the FMA peak that R rows reach: with fewer rows each loaded vector is used less often.
_SPMM_SHARE = {8: 1.0, 4: 1.0, 2: 0.88, 1: 0.5}
# What a finished row costs beside its columns (bias, activation, store), in columns.
_STORE = 2.5


def spmm_rows(holes: np.ndarray, groups: int, vectors: int, target: Target) -> Dealt:
    """Deal rows into blocks for the offset-SpMM kernel: the cheapest largest block, the rest in smaller ones."""
    sizes = [s for s in (8, 4, 2, 1) if s in target.tiles]
    # Blocks of 8 halve the loads of wide planes; on narrow ones their short tiles only read the weights more often.
    if vectors <= target.tiles[4]:
        sizes.remove(8)

    def price(size: int, lengths: np.ndarray) -> float:
        return float((lengths * size / _SPMM_SHARE[size] + _STORE * size).sum())

    return _cheapest(holes, groups, sizes, price)


def spmv_rows(holes: np.ndarray, groups: int) -> Dealt:
    """Deal rows into blocks for the SpMV kernel: a column costs one step and the weights it streams."""

    def price(size: int, lengths: np.ndarray) -> float:
        return float((lengths * (1 + size / 16) + 4).sum())

    return _cheapest(holes, groups, (16, 8, 4, 1), price, ordered=True)


def _cheapest(holes: np.ndarray, groups: int, sizes: Sequence[int], price: Price, ordered: bool = False) -> Dealt:
    best: tuple[float, Dealt] = (float("inf"), [])
    for i in range(len(sizes)):
        dealt = split_rows(holes, sizes[i:], groups)
        if ordered and not _in_order(dealt):
            continue
        total = sum(price(size, lengths) for size, lengths in block_lengths(holes, dealt))
        # A near tie goes to the larger block: it loads less.
        if total < 0.98 * best[0]:
            best = (total, dealt)
    return best[1]


def _in_order(dealt: Dealt) -> bool:
    """Whether each size covers one stretch of rows, as SpMV stores them."""
    return all(rows == list(range(rows[0], rows[0] + len(rows))) for _, rows in dealt)
