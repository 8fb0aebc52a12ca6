"""Unified columns of matrix-vector products: one magnitude and a sign bit a row instead of a float a row.

Where a product waits for its weights to come from memory, fewer bytes are less time, and there is time enough to build
the weights from magnitude and signs. Whether weights are so is read off them, like holes are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from monstera.compiler.lowering.choice import Candidate, Part, best_first
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.packing import Blocks, pack
from monstera.compiler.price import Price, in_cache, spmv_price
from monstera.compiler.program import Field
from monstera.compiler.targets import Target

# Rows of a block that the kernel takes: with fewer, building a weight costs as much as loading it.
SIZES = (16, 8)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
# Columns looked at, and the different magnitudes among the weights of each that are too many to be unified.
_SAMPLE = 16
_DIFFERENT = 0.9


@dataclass(frozen=True, slots=True)
class UnifiedColumns:
    """Blocks of rows with their unified columns apart from the plain ones; see `kernels/spmv_unified.h`.

    `offset` (uint16) of every column, a block's unified ones first; `magnitude` (fp32) and `sign` (uint16 or uint8, bit
    r for row r) of the unified ones, `weight` (fp32, `[*, rows]`) of the plain ones. `block` is int32 `[blocks, 6]`:
    (first offset, first magnitude, unified columns, first plain column, plain columns, first float of x).
    """

    offset: np.ndarray
    magnitude: np.ndarray
    sign: np.ndarray
    weight: np.ndarray
    block: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes that the kernel streams."""
        return sum(array.nbytes for array in (self.offset, self.magnitude, self.sign, self.weight))

    def tables(self, low: Lowering) -> dict[str, Field]:
        """The arrays as tables, by the names of the kernel's arguments."""
        return {field.name: low.table(getattr(self, field.name)) for field in fields(self)}


def unified_candidates(
    candidates: Sequence[Candidate], values: np.ndarray, holes: np.ndarray, images: int, target: Target
) -> tuple[Candidate, ...]:
    """The candidates with the parts marked whose unified columns save time, best first.

    Where weights come from a cache, or have magnitudes of their own, the candidates are left as they are.

    Args:
        candidates: ways to cut the matrix for the SpMV kernel, best first.
        values: `[rows, columns]` fp32.
        holes: bool, same shape: True where the model's own weight is zero.
        images: how many vectors are multiplied.
    """
    weights = holes.size - int(np.count_nonzero(holes))
    if in_cache(weights) or not _repeat(values, holes):
        return tuple(candidates)
    prices = [spmv_price(images, weights, target, unified) for unified in (False, True)]
    marked = [
        Candidate(candidate.order, tuple(_marked(part, values, holes, *prices) for part in candidate.parts))
        for candidate in candidates
    ]
    if not any(part.unified for candidate in marked for part in candidate.parts):
        return tuple(candidates)
    return best_first(marked)


def unified_columns(blocks: Blocks, offsets: np.ndarray, base: np.ndarray) -> UnifiedColumns:
    """Split the columns of blocks in unified and plain ones.

    Args:
        blocks: blocks of 8 or 16 rows.
        offsets: int `[columns]`, where a column reads, in floats from a block's `base`; none is 65536 or more behind
            another (see `near`).
        base: int `[blocks]`.
    """
    length = blocks.length
    owner = np.repeat(np.arange(blocks.count), length)
    first = np.cumsum(length) - length
    place = offsets[blocks.columns[np.repeat(blocks.start - first, length) + np.arange(owner.size)]]
    low = int(offsets.min())
    bits, unified = blocks.values.view(np.uint32), _unified(blocks.values)
    order = np.argsort(2 * owner + ~unified, kind="stable")
    counts = np.bincount(owner[unified], minlength=blocks.count)
    begin, plain = np.cumsum(counts) - counts, length - counts
    signs = (bits[unified] >> 31) << np.arange(blocks.rows, dtype=np.uint32)
    starts = (first, begin, counts, np.cumsum(plain) - plain, plain, base + low)
    return UnifiedColumns(
        offset=(place - low)[order].astype(np.uint16),
        magnitude=(bits[unified, 0] & _MAGNITUDE).view(np.float32),
        sign=signs.sum(1).astype(np.uint16 if blocks.rows > 8 else np.uint8),
        weight=blocks.values[~unified],
        block=np.stack(starts, 1).astype(np.int32),
    )


def near(offsets: np.ndarray) -> bool:
    """Whether what all columns read lies within the reach of an offset of two bytes."""
    return int(offsets.max()) - int(offsets.min()) < 1 << 16


def _unified(values: np.ndarray) -> np.ndarray:
    """Which columns `[columns, rows]` have one magnitude, to the bit."""
    magnitude = values.view(np.uint32) & _MAGNITUDE
    return (magnitude == magnitude[:, :1]).all(1)


def _marked(part: Part, values: np.ndarray, holes: np.ndarray, plain: Price, unified: Price) -> Part:
    """The part, marked and priced anew if its unified columns save time."""
    if part.size not in SIZES:
        return part
    found = int(_unified(pack(values, holes, part.rows).values).sum())
    saved = plain.flop * found * (plain.column[part.size] - unified.column[part.size])
    return replace(part, unified=True, flop=part.flop - saved) if saved > 0 else part


def _repeat(values: np.ndarray, holes: np.ndarray) -> bool:
    """Whether magnitudes repeat down some columns, which they hardly ever do by chance."""
    alive = np.flatnonzero(~holes.all(0))
    sample = alive[np.linspace(0, alive.size - 1, min(_SAMPLE, alive.size)).astype(int)]
    weights = int(np.count_nonzero(~holes[:, sample]))
    different = sum(np.unique(np.abs(values[~holes[:, column], column])).size for column in sample)
    return different <= _DIFFERENT * weights
