"""A weight as the matrix kernels take it, and the tables in which its blocks lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from monstera.compiler.ir import Conv, Linear, Node
from monstera.compiler.lowering.choice import Part
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.lowering.single_rows import OFFSET_BYTES, in_column_groups
from monstera.compiler.packing import Blocks
from monstera.compiler.program import Field, Ref, Work
from monstera.runtime import PackingSpec


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight as the kernels see it: `[rows, columns]`, and for each column where it reads, in floats from `x`.

    `holes` are read off the model's own weight, before any scale; columns count within a convolution group, and
    `group_stride` floats lie between the inputs of two groups. Over planes, each tap in depth has `deep` neighbouring
    columns.
    """

    values: np.ndarray
    holes: np.ndarray
    offsets: np.ndarray
    bias: np.ndarray
    x: Ref
    groups: int = 1
    group_stride: int = 0
    deep: int = 0


def scaled(low: Lowering, op: Conv | Linear) -> np.ndarray:
    """The weight as `[rows, columns]`, each row times its scale."""
    weight = low.graph.params[op.weight]
    matrix = weight.reshape(len(weight), -1)
    return matrix * low.graph.params[op.scale][:, None] if op.scale else matrix


def column_tables(low: Lowering, matrix: Matrix, blocks: Blocks, ahead: int = 0) -> dict[str, Field]:
    """What the columns of blocks read and by what they multiply, for either kernel; `ahead` offsets are read beyond."""
    columns = np.concatenate([blocks.columns, blocks.columns[-1:].repeat(ahead)])
    return {"offset": low.gathered(columns, matrix.offsets), "weight": low.table(blocks.values)}


def block_table(low: Lowering, matrix: Matrix, blocks: Blocks) -> Ref:
    """Where each block's columns lie in the tables of all, for either kernel."""
    table = np.stack([blocks.start, blocks.first, blocks.length, group_offsets(matrix, blocks)], 1)
    return low.table(table.astype(np.int32))


def spmv_fields(
    low: Lowering, matrix: Matrix, part: Part, blocks: Blocks, y: Ref, images: tuple[int, int]
) -> dict[str, Field]:
    """The fields of `spmv_args` for y[image, row] = matrix @ x + bias; `images` is (how many, floats between two)."""
    return product_fields(low, matrix, part, blocks, y, images) | _product_tables(low, matrix, blocks, images[0])


def product_fields(
    low: Lowering, matrix: Matrix, part: Part, blocks: Blocks, y: Ref, images: tuple[int, int]
) -> dict[str, Field]:
    """The fields that all kernels for matrix-vector products have, but for the tables of columns."""
    return {
        "x": matrix.x,
        "y": y,
        "x_image": images[1],
        "y_image": len(matrix.values),
        "images": images[0],
        "bias": low.table(matrix.bias[blocks.row]),
        "blocks": blocks.count,
        "row": None if part.stretch else low.table(blocks.row),
        "first_row": int(blocks.row[0, 0]),
    }


def _product_tables(low: Lowering, matrix: Matrix, blocks: Blocks, images: int) -> dict[str, Field]:
    if blocks.rows > 1:
        return column_tables(low, matrix, blocks) | {"block": block_table(low, matrix, blocks), "groups": 1}
    groups = in_column_groups(blocks, matrix.offsets, group_offsets(matrix, blocks), images)
    tables = {"offset": groups.offset, "weight": groups.weight, "block": groups.block}
    fields: dict[str, Field] = {name: low.table(array) for name, array in tables.items()}
    return fields | {"groups": groups.count}


def group_offsets(matrix: Matrix, blocks: Blocks) -> np.ndarray:
    """Where the inputs of each block's convolution group begin."""
    return blocks.row[:, 0] // (len(matrix.values) // matrix.groups) * matrix.group_stride


def work_of(matrix: Matrix, part: Part, blocks: Blocks, pixels: int, steps: int = 1) -> Work:
    """The work of one part for so many pixels, or images; of a recurrence, in each of its steps."""
    rows = blocks.row.reshape(-1)
    columns, weights = matrix.holes.shape[1], int((~matrix.holes[rows]).sum())
    flop = part.flop * steps
    return Work(
        dense_macs=rows.size * columns * pixels * steps,
        macs=weights * pixels * steps,
        bytes=4 * (blocks.stored + blocks.columns.size),
        packing=(PackingSpec(part.order, part.size, blocks.count, columns, weights, blocks.stored, flop),),
    )


def spmv_work(matrix: Matrix, part: Part, blocks: Blocks, images: int, steps: int = 1) -> Work:
    """The work of one part of a matrix-vector product, whose single rows have short offsets."""
    work = work_of(matrix, part, blocks, images, steps)
    return work if blocks.rows > 1 else replace(work, bytes=(4 + OFFSET_BYTES) * blocks.stored)


def title_of(low: Lowering, node: Node, blocks: Blocks) -> str:
    """What the step is called that computes the rows of these blocks."""
    assert isinstance(node.op, Conv | Linear)
    shape = low.graph.params[node.op.weight].shape
    kind = "linear" if isinstance(node.op, Linear) else f"conv {'x'.join(map(str, shape[2:]))}"
    share = blocks.stored / max(1, blocks.row.size * prod(shape[1:]))
    return f"{kind} {shape[1]} to {blocks.row.size} of {shape[0]}, blocks of {blocks.rows}, {share:.3f} stored"
