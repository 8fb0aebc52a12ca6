"""BCRC, the form of block-column-row masks: rows that keep the same columns share one list of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monstera.sparsity.errors import FormatError
from monstera.sparsity.storage.form import (
    Form,
    Shape,
    as_values,
    bits_of,
    check_distinct,
    check_indices,
    check_shape,
    check_starts,
    lengths,
    positions_of,
    smallest,
    starts,
    stored_bits,
    zero_bits,
)


@dataclass(frozen=True, slots=True, eq=False)
class BCRC(Form):
    """Groups of rows of the matrix `[out, in * positions]` with equal columns. Rows without weights are in no group.

    Any mask can be stored so. One whose rows all differ takes a list a row: then this is CSR with a permutation.

    Attributes:
        reorder: the original row of each stored row, groups with most columns first.
        row_offset: `[stored rows + 1]`, where each row begins in `weights`.
        occurrence: `[groups + 1]`, the first stored row of each group.
        column_stride: `[groups + 1]`, where the columns of each group begin in `compact_column`.
        compact_column: the columns of each group, ascending, once a group.
        weights: the stored weights, row by row.

    Source: GRIM (Niu et al., TPAMI 2022). The paper introduces matrix reorder and a compact form; its arrays are given
    here as we understand them from accounts of it, and the order of groups and of empty rows is ours.
    """

    shape: Shape
    reorder: np.ndarray
    row_offset: np.ndarray
    occurrence: np.ndarray
    column_stride: np.ndarray
    compact_column: np.ndarray
    weights: np.ndarray

    def __post_init__(self) -> None:
        out, in_, positions = positions_of(self.shape)
        rows, groups = self.reorder.size, self.groups
        check_shape("BCRC.weights", self.weights, (self.weights.size,), "f")
        check_indices("BCRC.reorder", self.reorder, rows, out)
        check_starts("BCRC.row_offset", self.row_offset, rows, self.weights.size)
        check_starts("BCRC.occurrence", self.occurrence, groups, rows)
        check_starts("BCRC.column_stride", self.column_stride, groups, self.compact_column.size)
        check_indices("BCRC.compact_column", self.compact_column, self.compact_column.size, in_ * positions)
        check_distinct("BCRC.compact_column of a group", self.compact_column, self.column_stride)
        if np.unique(self.reorder).size != rows:
            raise FormatError("BCRC.reorder names a row twice: every row is stored once")
        columns = np.repeat(lengths(self.column_stride), lengths(self.occurrence))
        if not np.array_equal(lengths(self.row_offset), columns):
            raise FormatError("BCRC.row_offset gives a row another number of weights than its group has columns")

    @classmethod
    def encode(cls, weight: np.ndarray) -> BCRC:
        """Store a weight `[out, in, *kernel]`."""
        bits = bits_of(weight)
        bits = bits.reshape(len(bits), -1)
        alive = bits != 0
        columns = alive.sum(1)
        groups = sorted(_equal_rows(alive), key=lambda rows: (-columns[rows[0]], rows[0]))
        reorder = np.array([row for rows in groups for row in rows], np.int64)
        lists = alive[[rows[0] for rows in groups]] if groups else alive[:0]
        return cls(
            weight.shape,
            reorder=smallest(reorder),
            row_offset=starts(columns[reorder]),
            occurrence=starts(np.array([len(rows) for rows in groups], np.int64)),
            column_stride=starts(lists.sum(1)),
            compact_column=smallest(np.nonzero(lists)[1]),
            weights=as_values(bits[reorder][alive[reorder]], weight),
        )

    @property
    def groups(self) -> int:
        """How many groups of rows there are."""
        return self.occurrence.size - 1

    def decode(self) -> np.ndarray:
        """The weight, the same bits."""
        bits = zero_bits(self.shape, self.weights)
        matrix, kept = bits.reshape(len(bits), -1), stored_bits(self.weights)
        for group in range(self.groups):
            first, end = self.occurrence[group : group + 2]
            columns = self.compact_column[slice(*self.column_stride[group : group + 2])]
            values = kept[self.row_offset[first] : self.row_offset[end]]
            matrix[np.ix_(self.reorder[first:end], columns)] = values.reshape(-1, columns.size)
        return as_values(bits, self.weights).reshape(self.shape)


def _equal_rows(alive: np.ndarray) -> list[list[int]]:
    """The rows that keep the same columns, empty ones left out."""
    groups: dict[bytes, list[int]] = {}
    packed = np.packbits(alive, axis=1)
    for row in np.flatnonzero(alive.any(1)):
        groups.setdefault(packed[row].tobytes(), []).append(int(row))
    return list(groups.values())
