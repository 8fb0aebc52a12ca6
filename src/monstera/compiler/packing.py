"""Reads the holes off a weight: rows that share columns become blocks of R rows with one list of taps.

Packing never loses a weight and never trusts a pattern's name: a block stores the union of its rows' columns, and the
plan says how many zeros that carries. Which rows meet in a block is decided by `reorder` and `lowering.choice`.
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


def pack(matrix: np.ndarray, holes: np.ndarray, rows: np.ndarray) -> Blocks:
    """Store the given rows in blocks.

    Args:
        matrix: `[out, columns]` values to store, fp32.
        holes: bool, same shape: True where the model's own weight is zero.
        rows: int `[blocks, size]`, the output rows of each block.
    """
    known: dict[bytes, int] = {}
    columns: list[np.ndarray] = []
    values: list[np.ndarray] = []
    start, length, first = [], [], []
    end = used = 0
    for block in rows:
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
    size = rows.shape[1]
    return Blocks(
        rows=size,
        row=rows.astype(np.int32),
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
