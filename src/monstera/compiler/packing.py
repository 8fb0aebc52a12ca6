"""Reads the holes off a weight: rows that share columns become blocks of R rows with one list of taps.

Packing never loses a weight and never trusts a pattern's name: a block stores the union of its rows' columns, and the
plan says how many zeros that carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Blocks:
    """`count` blocks of `rows` rows. Block b has the columns `columns[start[b] : start[b] + length[b]]`, shared by its
    rows, and the weights `values[first[b] : first[b] + length[b]]`, an array `[*, rows]`.

    Equal column lists are stored once; `row[b]` are the output rows. Columns count within a convolution group.
    """

    rows: int
    row: np.ndarray
    columns: np.ndarray
    start: np.ndarray
    length: np.ndarray
    first: np.ndarray
    values: np.ndarray

    @property
    def count(self) -> int:
        """The number of blocks."""
        return len(self.start)

    @property
    def stored(self) -> int:
        """Weights stored, the zeros that blocks carry counted."""
        return self.values.size


def pack(matrix: np.ndarray, holes: np.ndarray, rows: Sequence[int], size: int) -> Blocks:
    """Cut the given rows into blocks of `size`.

    Args:
        matrix: `[out, columns]` values to store, fp32.
        holes: bool, same shape: True where the model's own weight is zero.
        rows: output rows, a multiple of `size` of them; neighbours in this order share a block.
        size: rows of a block.
    """
    order = np.asarray(rows, np.int32).reshape(-1, size)
    known: dict[bytes, int] = {}
    columns: list[np.ndarray] = []
    values: list[np.ndarray] = []
    start, length, first = [], [], []
    end = used = 0
    for block in order:
        alive = np.flatnonzero(~holes[block].all(0)).astype(np.int32)
        key = alive.tobytes()
        if key not in known:
            known[key] = end
            columns.append(alive)
            end += len(alive)
        start.append(known[key])
        length.append(len(alive))
        first.append(used)
        used += len(alive)
        values.append(matrix[np.ix_(block, alive)].T)
    return Blocks(
        rows=size,
        row=order,
        columns=np.concatenate(columns) if columns else np.zeros(0, np.int32),
        start=np.array(start, np.int32),
        length=np.array(length, np.int32),
        first=np.array(first, np.int32),
        values=np.ascontiguousarray(np.concatenate(values), np.float32) if values else np.zeros((0, size), np.float32),
    )


def unpack(blocks: Sequence[Blocks], shape: tuple[int, int]) -> np.ndarray:
    """The matrix `[out, columns]` that the blocks hold: the inverse of `pack`, for checks."""
    matrix = np.zeros(shape, np.float32)
    for part in blocks:
        for b in range(part.count):
            at = part.columns[part.start[b] : part.start[b] + part.length[b]]
            matrix[np.ix_(part.row[b], at)] = part.values[part.first[b] : part.first[b] + part.length[b]].T
    return matrix


def split_rows(holes: np.ndarray, sizes: Sequence[int], groups: int) -> list[tuple[int, list[int]]]:
    """Deal the rows into block sizes: as many of the first size as fit, the rest in smaller ones; never across groups.

    Returns (size, rows) in the order of `sizes`; sizes that get no rows are left out.
    """
    dealt: dict[int, list[int]] = {size: [] for size in sizes}
    per_group = len(holes) // groups
    for g in range(groups):
        left = list(range(g * per_group, (g + 1) * per_group))
        for size in sizes:
            take = len(left) // size * size
            dealt[size] += left[:take]
            left = left[take:]
    return [(size, rows) for size, rows in dealt.items() if rows]


def block_lengths(holes: np.ndarray, dealt: Sequence[tuple[int, list[int]]]) -> list[tuple[int, np.ndarray]]:
    """(size, columns of each block) that `dealt` would make, without storing anything."""
    return [(size, (~holes[np.asarray(rows)].reshape(-1, size, holes.shape[1]).all(1)).sum(1)) for size, rows in dealt]
