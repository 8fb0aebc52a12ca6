"""Unified blocks: all weights of a block have one magnitude, which is stored once; each has its sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from monstera.sparsity.errors import FormatError
from monstera.sparsity.storage.form import (
    Form,
    Shape,
    as_values,
    bits_of,
    check_shape,
    positions_of,
    stored_bits,
    zero_bits,
)
from monstera.sparsity.storage.plain import BlockShape, block_counts


@dataclass(frozen=True, slots=True, eq=False)
class UnifiedBlocks(Form):
    """Blocks of `block` = (out, in, positions) weights, each of them holes only, unified, or neither (plain).

    Blocks at the far edges are smaller, and hold the weights they have. Blocks of one weight are never unified. Bits
    are packed eight a byte, the first in the high bit. Weights count block by block, in row-major order within each.

    Attributes:
        alive: a bit a block: whether it holds anything.
        unified: a bit for each block alive: whether it has one magnitude.
        magnitude: for each unified block.
        sign: a bit for each weight of unified blocks, set where it is negative.
        weights: those of plain blocks, holes among them included.

    Source: Lin et al., "Efficient Micro-Structured Weight Unification and Pruning for Neural Network Compression",
    2021: all weights of a unified block share their absolute value, and a pruned block is one whose value is zero. The
    arrays are ours.
    """

    VALUES: ClassVar[tuple[str, ...]] = ("magnitude", "sign", "weights")
    shape: Shape
    block: BlockShape
    alive: np.ndarray
    unified: np.ndarray
    magnitude: np.ndarray
    sign: np.ndarray
    weights: np.ndarray

    def __post_init__(self) -> None:
        blocks = int(np.prod(block_counts(self.shape, self.block)))
        check_shape("UnifiedBlocks.alive", self.alive, (-(-blocks // 8),), "bits")
        living = int(np.unpackbits(self.alive, count=blocks).sum())
        check_shape("UnifiedBlocks.unified", self.unified, (-(-living // 8),), "bits")
        _, sizes = _by_block(self.shape, self.block)
        alive, unified = self._kinds(blocks)
        check_shape("UnifiedBlocks.magnitude", self.magnitude, (int(unified.sum()),), "f")
        check_shape("UnifiedBlocks.sign", self.sign, (-(-int(sizes[unified].sum()) // 8),), "bits")
        check_shape("UnifiedBlocks.weights", self.weights, (int(sizes[alive & ~unified].sum()),), "f")
        if self.weights.dtype != self.magnitude.dtype:
            raise FormatError(
                f"UnifiedBlocks.weights are {self.weights.dtype}, magnitudes {self.magnitude.dtype}: one dtype for both"
            )

    @classmethod
    def encode(cls, weight: np.ndarray, block: BlockShape) -> UnifiedBlocks:
        """Store a weight `[out, in, *kernel]` in blocks of this shape.

        Raises:
            FormatError: the block has no weights.
        """
        bits = bits_of(weight)
        order, sizes = _by_block(weight.shape, block)
        bits = bits.reshape(-1)[order]
        magnitude, negative = bits & ~_sign_bit(bits), (bits & _sign_bit(bits)) != 0
        first = np.cumsum(sizes) - sizes
        alive = np.logical_or.reduceat(bits != 0, first)
        same = np.logical_and.reduceat(magnitude == np.repeat(magnitude[first], sizes), first)
        unified = alive & same & (sizes > 1)
        return cls(
            weight.shape,
            block,
            alive=np.packbits(alive),
            unified=np.packbits(unified[alive]),
            magnitude=as_values(magnitude[first[unified]], weight),
            sign=np.packbits(negative[np.repeat(unified, sizes)]),
            weights=as_values(bits[np.repeat(alive & ~unified, sizes)], weight),
        )

    def decode(self) -> np.ndarray:
        """The weight, the same bits."""
        order, sizes = _by_block(self.shape, self.block)
        alive, unified = self._kinds(len(sizes))
        result = zero_bits(self.shape, self.weights)
        bits = np.zeros(order.size, result.dtype)
        signed = np.unpackbits(self.sign, count=int(sizes[unified].sum())).astype(bool)
        magnitude = np.repeat(stored_bits(self.magnitude), sizes[unified])
        bits[np.repeat(unified, sizes)] = np.where(signed, magnitude | _sign_bit(bits), magnitude)
        bits[np.repeat(alive & ~unified, sizes)] = stored_bits(self.weights)
        result.reshape(-1)[order] = bits
        return as_values(result, self.weights).reshape(self.shape)

    def _kinds(self, blocks: int) -> tuple[np.ndarray, np.ndarray]:
        """For each block, whether it is alive and whether it is unified."""
        alive = np.unpackbits(self.alive, count=blocks).astype(bool)
        unified = np.zeros(blocks, bool)
        unified[alive] = np.unpackbits(self.unified, count=int(alive.sum())).astype(bool)
        return alive, unified


def _by_block(shape: Shape, block: BlockShape) -> tuple[np.ndarray, np.ndarray]:
    """The weights in the order of their blocks, as indices into the flat weight, and how many each block has."""
    _, columns, depth = block_counts(shape, block)
    out, in_, positions = (np.arange(size) // b for size, b in zip(positions_of(shape), block, strict=True))
    of = ((out[:, None, None] * columns + in_[:, None]) * depth + positions).reshape(-1)
    return np.argsort(of, kind="stable"), np.bincount(of)


def _sign_bit(bits: np.ndarray) -> np.unsignedinteger:
    """The sign bit of floats of this width."""
    return bits.dtype.type(1 << 8 * bits.itemsize - 1)
