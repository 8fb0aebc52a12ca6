"""Single rows of a matrix-vector product: columns in groups that read a part of x, which then stays in the first cache.

Without structure every multiply-add fetches a float of its own from anywhere in x. With the part of x at hand, what is
left is streaming the weights and their offsets, which within a group take two bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monstera.compiler.packing import Blocks

# Floats of x that a group reads, of all images done at once: most of a first-level cache of 32 KiB.
GROUP_FLOATS = 6144
# A row comes back to its sum once a group, which has to have this many columns of it to be worth that.
GROUP_COLUMNS = 64
OFFSET_BYTES = 2
_OFFSETS = 1 << 8 * OFFSET_BYTES


@dataclass(frozen=True, slots=True)
class ColumnGroups:
    """`count` groups of columns: `offset` (uint16) and `weight` (fp32) of every column, all rows' first group first.

    `block` is int32 `[count * rows, 4]`: (first offset, first weight, columns, first float of x) a group and row.
    """

    count: int
    offset: np.ndarray
    weight: np.ndarray
    block: np.ndarray


def in_column_groups(blocks: Blocks, offsets: np.ndarray, base: np.ndarray, images: int) -> ColumnGroups:
    """Cut the columns of single rows in groups.

    Args:
        blocks: blocks of one row.
        offsets: int `[columns]`, where a column reads, in floats from the row's `base`.
        base: int `[rows]`.
        images: how many vectors are multiplied; up to four at once.
    """
    rows, length = blocks.count, blocks.length
    first = np.cumsum(length) - length
    columns = blocks.columns[np.repeat(blocks.start - first, length) + np.arange(length.sum())]
    place = offsets[columns].astype(np.int64)
    low, high = (int(place.min()), int(place.max())) if place.size else (0, 0)
    span = high - low + 1
    count = _count(span, place.size, rows, min(images, 4))
    width = -(-span // count)
    group = (place - low) // width
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group * rows + np.repeat(np.arange(rows), length), minlength=count * rows)
    begin = np.cumsum(sizes) - sizes
    starts = (low + width * np.arange(count))[:, None] + base
    return ColumnGroups(
        count=count,
        offset=((place - low) % width)[order].astype(np.uint16),
        weight=blocks.values.reshape(-1)[order],
        block=np.stack([begin, begin, sizes, starts.reshape(-1)], 1).astype(np.int32),
    )


def _count(span: int, weights: int, rows: int, together: int) -> int:
    wanted = -(-span * together // GROUP_FLOATS)
    worth = weights // max(1, rows * GROUP_COLUMNS)
    return max(-(-span // _OFFSETS), min(wanted, worth), 1)
