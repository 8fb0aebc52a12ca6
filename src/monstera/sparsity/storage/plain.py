"""The forms that everybody knows, to compare with: dense, compressed rows (CSR), compressed rows of blocks (BSR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

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

BlockShape: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Dense(Form):
    """Every weight, holes included: `weights` is the weight itself, in row-major order."""

    shape: Shape
    weights: np.ndarray

    def __post_init__(self) -> None:
        check_shape("Dense.weights", self.weights, self.shape, "f")

    @classmethod
    def encode(cls, weight: np.ndarray) -> Dense:
        """Store a weight `[out, in, *kernel]`."""
        bits = bits_of(weight)
        return cls(weight.shape, as_values(bits, weight).reshape(weight.shape).copy())

    def decode(self) -> np.ndarray:
        """The weight, the same bits."""
        return self.weights.copy()


@dataclass(frozen=True, slots=True, eq=False)
class CSR(Form):
    """Compressed rows of the matrix `[out, in * positions]`.

    Attributes:
        row_offset: `[out + 1]`, where each row begins in `column` and `weights`.
        column: the column of each stored weight, ascending within a row.
        weights: the stored weights, row by row.
    """

    shape: Shape
    row_offset: np.ndarray
    column: np.ndarray
    weights: np.ndarray

    def __post_init__(self) -> None:
        out, in_, positions = positions_of(self.shape)
        check_shape("CSR.weights", self.weights, (self.weights.size,), "f")
        check_starts("CSR.row_offset", self.row_offset, out, self.weights.size)
        check_indices("CSR.column", self.column, self.weights.size, in_ * positions)
        check_distinct("CSR.column of a row", self.column, self.row_offset)

    @classmethod
    def encode(cls, weight: np.ndarray) -> CSR:
        """Store a weight `[out, in, *kernel]`."""
        bits = bits_of(weight)
        bits = bits.reshape(len(bits), -1)
        alive = bits != 0
        column = smallest(np.nonzero(alive)[1])
        return cls(weight.shape, starts(alive.sum(1)), column, as_values(bits[alive], weight))

    def decode(self) -> np.ndarray:
        """The weight, the same bits."""
        bits = zero_bits(self.shape, self.weights)
        row = np.repeat(np.arange(len(bits)), lengths(self.row_offset))
        bits.reshape(len(bits), -1)[row, self.column] = stored_bits(self.weights)
        return as_values(bits, self.weights).reshape(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class BSR(Form):
    """Compressed rows of blocks of `block` = (out, in, positions) weights.

    A block with a weight in it is stored whole, holes included; one over the edge is filled up with zeros.

    Attributes:
        row_offset: where each row of blocks begins in `column` and `weights`.
        column: the column of each stored block, counted in blocks: all block positions of the first channels first.
        weights: `[blocks, out, in, positions]`.
    """

    shape: Shape
    block: BlockShape
    row_offset: np.ndarray
    column: np.ndarray
    weights: np.ndarray

    def __post_init__(self) -> None:
        rows, *columns = block_counts(self.shape, self.block)
        count = len(self.weights)
        check_shape("BSR.weights", self.weights, (count, *self.block), "f")
        check_starts("BSR.row_offset", self.row_offset, rows, count)
        check_indices("BSR.column", self.column, count, columns[0] * columns[1])
        check_distinct("BSR.column of a row", self.column, self.row_offset)

    @classmethod
    def encode(cls, weight: np.ndarray, block: BlockShape) -> BSR:
        """Store a weight `[out, in, *kernel]` in blocks of this shape.

        Raises:
            FormatError: the block has no weights.
        """
        bits = bits_of(weight)
        counts = block_counts(weight.shape, block)
        pad = [(0, n * b - s) for n, b, s in zip(counts, block, bits.shape, strict=True)]
        split = np.pad(bits, pad).reshape([size for pair in zip(counts, block, strict=True) for size in pair])
        blocks = split.transpose(0, 2, 4, 1, 3, 5).reshape(counts[0], counts[1] * counts[2], *block)
        alive = (blocks != 0).any((2, 3, 4))
        column = smallest(np.nonzero(alive)[1])
        return cls(weight.shape, block, starts(alive.sum(1)), column, as_values(blocks[alive], weight))

    def decode(self) -> np.ndarray:
        """The weight, the same bits."""
        counts = block_counts(self.shape, self.block)
        kept = stored_bits(self.weights)
        blocks = np.zeros((counts[0], counts[1] * counts[2], *self.block), kept.dtype)
        row = np.repeat(np.arange(counts[0]), lengths(self.row_offset))
        blocks[row, self.column] = kept
        whole = blocks.reshape(*counts, *self.block).transpose(0, 3, 1, 4, 2, 5)
        whole = whole.reshape([n * b for n, b in zip(counts, self.block, strict=True)])
        out, in_, positions = positions_of(self.shape)
        return as_values(whole[:out, :in_, :positions], self.weights).reshape(self.shape)


def block_counts(shape: Shape, block: BlockShape) -> tuple[int, int, int]:
    """How many blocks a weight has along (out, in, positions), smaller ones at the far edges included.

    Raises:
        FormatError: a block is three whole numbers of at least 1.
    """
    if len(block) != 3 or not all(isinstance(size, int) and size >= 1 for size in block):
        raise FormatError(f"a block is (out, in, positions), each at least 1; got {block!r}")
    out, in_, positions = (-(-size // b) for size, b in zip(positions_of(shape), block, strict=True))
    return out, in_, positions
