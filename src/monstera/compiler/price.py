"""What blocks of R rows cost, as a linear model whose constants were read off the kernels on one machine.

It ranks ways to cut a matrix into blocks before anything is timed; the tuner has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monstera.compiler.targets import Target

# Share of the FMA peak that R rows reach while their columns pass: with fewer rows each loaded vector is used less
# often. With avx2, registers hold 4 rows; the next 4 of a block find in the first-level cache what those have read.
_SPMM_SHARE = {
    "avx512": {1: 0.42, 2: 0.78, 4: 1.0, 8: 0.99, 16: 0.9},
    "avx2": {1: 0.42, 2: 0.62, 4: 0.84, 8: 0.85, 16: 0.85},
    # Not measured on a real machine yet.
    "neon": {1: 0.42, 2: 0.78, 4: 1.0, 8: 1.0, 16: 0.9},
}
# What a finished row costs beside its columns (bias, activation, store), in vector multiply-adds.
_SPMM_STORE = 2.5
# A kernel call (tables, first misses) as vector multiply-adds.
_SPMM_CALL = 1000.0

# Cycles of a column in the SpMV kernel, for one image and for four at once, with weights at hand; and of a block, for
# each image.
_SPMV_COLUMN = {1: 1.5, 2: 1.5, 4: 1.4, 8: 1.65, 16: 2.6}
_SPMV_COLUMN_OF_FOUR = {1: 3.2, 2: 3.2, 4: 3.8, 8: 3.8, 16: 5.0}
_SPMV_BLOCK = {1: 6.0, 2: 6.0, 4: 6.0, 8: 7.0, 16: 17.0}
_SPMV_CALL = 300.0
# Cycles it takes to build a column's weights from magnitude and signs, by counting instructions; not measured yet.
_SPMV_BUILD = 2.0
# Bytes of weights and offsets a cycle brings, from the third-level cache or, where they are too many, from memory.
_STREAM = {"cache": 24.0, "memory": 7.0}
_CACHE_BYTES = 16 * 2**20
# Floating-point operations a cycle at the peak: 2 FMA of 8 lanes with avx2, which avx512 does as one of 16.
_FLOP_A_CYCLE = {"avx512": 32, "avx2": 32, "neon": 16}


@dataclass(frozen=True, slots=True)
class Price:
    """`column[R]` a column of a block of R rows, `block[R]` a block beside its columns, `call` a kernel call.

    All in one unit, and `flop` says what that is worth: the floating-point operations that the core does meanwhile at
    its peak. Defined for every power of two up to the largest size, kernels or not: clusters grow by doubling.
    """

    column: Mapping[int, float]
    block: Mapping[int, float]
    call: float
    flop: float

    def of(self, size: int, lengths: np.ndarray) -> np.ndarray:
        """The price of each block of `size` rows, given its number of columns."""
        return self.column[size] * lengths + self.block[size]

    def bound(self, rows: int, weights: int, sizes: Sequence[int]) -> float:
        """What `rows` rows with `weights` surviving weights cost at least, in blocks of these sizes."""
        column, block = (min(table[size] / size for size in sizes) for table in (self.column, self.block))
        return column * weights + block * rows + self.call


def spmm_price(vectors: int, target: Target) -> Price:
    """The price of a plane of `vectors` vectors, for each of them."""
    share = _SPMM_SHARE[target.name]
    return Price(
        column={size: size / share[size] for size in share},
        block={size: _SPMM_STORE * size for size in share},
        call=_SPMM_CALL / max(1, vectors),
        flop=2.0 * target.lanes * max(1, vectors),
    )


def in_cache(weights: int) -> bool:
    """Whether so many weights stay in a cache from one run to the next."""
    return 4 * weights <= _CACHE_BYTES


def spmv_price(images: int, weights: int, target: Target, unified: bool = False) -> Price:
    """The price of a matrix-vector product in cycles; four images at a time share the weights they stream.

    With `unified`, of columns that have one magnitude, of which it and the signs are streamed.
    """
    source = "cache" if in_cache(weights) else "memory"
    fours, ones = divmod(images, 4)

    def column(size: int) -> float:
        build = _SPMV_BUILD if unified else 0.0
        cycles = fours * (_SPMV_COLUMN_OF_FOUR[size] + build) + ones * (_SPMV_COLUMN[size] + build)
        offset = 4 if size > 1 and not unified else 2
        streamed = 4 + -(-size // 8) if unified else 4 * size
        return max(cycles, (fours + ones) * (streamed + offset) / _STREAM[source])

    return Price(
        column={size: column(size) for size in _SPMV_COLUMN},
        block={size: images * cost for size, cost in _SPMV_BLOCK.items()},
        call=_SPMV_CALL,
        flop=_FLOP_A_CYCLE[target.name],
    )
