"""FKW, the form of kernel patterns: kernels in the order of the pattern they have, so that none needs its own index."""

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

# Every pattern a 3x3 kernel can have. `stride` has a number for each filter and pattern: more of them defeat the form.
MOST_PATTERNS = 512


@dataclass(frozen=True, slots=True, eq=False)
class FKW(Form):
    """Kernels that keep few different patterns of positions; kernels without weights are not stored.

    The library is read off the weight: each set of positions that some kernel keeps is a pattern, the most frequent
    one first. A kernel in which a weight of its pattern happens to be zero has a pattern of its own.

    Attributes:
        patterns: uint8 `[patterns, bytes]`, the positions that each keeps, one bit each, the first in the high bit.
        reorder: `[out]`, filters with most kernels first.
        offset: `[out + 1]`, where the kernels of each filter, so ordered, begin.
        index: the input channel of each kernel; within a filter by pattern, then by channel.
        stride: `[out, patterns + 1]`, where in a filter the kernels of each pattern begin.
        weights: the stored weights, kernel by kernel, each in the order of positions.

    Source: PatDNN (Niu et al., ASPLOS 2020); the arrays are those of a third party's code for it. How we differ: any
    number of patterns of any size, where that code has four positions in every kernel.
    """

    shape: Shape
    patterns: np.ndarray
    reorder: np.ndarray
    offset: np.ndarray
    index: np.ndarray
    stride: np.ndarray
    weights: np.ndarray

    def __post_init__(self) -> None:
        out, in_, positions = positions_of(self.shape)
        count, kernels = len(self.patterns), self.index.size
        check_shape("FKW.weights", self.weights, (self.weights.size,), "f")
        check_shape("FKW.patterns", self.patterns, (count, -(-positions // 8)), "bits")
        check_indices("FKW.reorder", self.reorder, out, out)
        check_starts("FKW.offset", self.offset, out, kernels)
        check_indices("FKW.index", self.index, kernels, in_)
        check_distinct("FKW.index of a filter", self.index, self.offset)
        check_shape("FKW.stride", self.stride, (out, count + 1), "u")
        if np.unique(self.reorder).size != out:
            raise FormatError("FKW.reorder names a filter twice: every filter is stored once")
        for row, (begin, end) in zip(self.stride, zip(self.offset[:-1], self.offset[1:], strict=True), strict=True):
            check_starts("FKW.stride of a filter", row, count, int(end) - int(begin))
        if self._masks()[self._pattern_of_kernels()].sum() != self.weights.size:
            raise FormatError("FKW.weights has another number of weights than the patterns of its kernels keep")

    @classmethod
    def encode(cls, weight: np.ndarray) -> FKW:
        """Store a weight `[out, in, *kernel]`.

        Raises:
            FormatError: the kernels keep more than 512 different patterns.
        """
        bits = bits_of(weight)
        alive = bits != 0
        out, channel = np.nonzero(alive.any(2))
        patterns, pattern = _library(np.packbits(alive[out, channel], axis=1))
        kernels = np.bincount(out, minlength=len(bits))
        reorder = np.argsort(-kernels, kind="stable")
        rank = np.argsort(reorder)[out]
        order = np.lexsort((channel, pattern, rank))
        each = np.bincount(rank * len(patterns) + pattern, minlength=len(bits) * len(patterns))
        stride = np.cumsum(each.reshape(len(bits), -1), 1)
        kept = (out[order], channel[order])
        return cls(
            weight.shape,
            patterns=patterns,
            reorder=smallest(reorder),
            offset=starts(kernels[reorder]),
            index=smallest(channel[order]),
            stride=smallest(np.pad(stride, ((0, 0), (1, 0)))),
            weights=as_values(bits[kept][alive[kept]], weight),
        )

    def decode(self) -> np.ndarray:
        """The weight, the same bits."""
        bits = zero_bits(self.shape, self.weights)
        masks = self._masks()[self._pattern_of_kernels()]
        kernels = np.zeros(masks.shape, bits.dtype)
        kernels[masks] = stored_bits(self.weights)
        out = np.repeat(self.reorder, lengths(self.offset))
        bits[out, self.index] = kernels
        return as_values(bits, self.weights).reshape(self.shape)

    def _masks(self) -> np.ndarray:
        """The library as bool `[patterns, positions]`."""
        return np.unpackbits(self.patterns, axis=1, count=positions_of(self.shape)[2]).astype(bool)

    def _pattern_of_kernels(self) -> np.ndarray:
        each = np.diff(self.stride.astype(np.int64), axis=1)
        return np.repeat(np.tile(np.arange(len(self.patterns)), len(each)), each.reshape(-1))


def _library(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different patterns among packed ones, the most frequent first, and which of them each is."""
    patterns, pattern, count = np.unique(packed, axis=0, return_inverse=True, return_counts=True)
    if len(patterns) > MOST_PATTERNS:
        raise FormatError(
            f"FKW is for kernels with few patterns, at most {MOST_PATTERNS}; this weight has {len(patterns)}: "
            "prune it with kernel patterns, or store it as CSR or BCRC"
        )
    order = np.argsort(-count, kind="stable")
    return patterns[order], np.argsort(order)[pattern.reshape(-1)]
