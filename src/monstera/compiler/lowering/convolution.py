"""Convolutions over planes, by offset SpMM: a tap is a constant offset, wherever in the plane it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod

import numpy as np

from monstera.compiler.ir import Conv, Node
from monstera.compiler.kernels import run_of, spmm_kernel
from monstera.compiler.kernels.spmm import Run
from monstera.compiler.layout import Flat, Planes
from monstera.compiler.lowering.choice import Case, Choice, Part, spmm_candidates
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.lowering.depthwise import lower_depthwise
from monstera.compiler.lowering.linear import lower_one_pixel
from monstera.compiler.lowering.matrix import (
    Matrix,
    block_table,
    column_tables,
    group_offsets,
    scaled,
    title_of,
    work_of,
)
from monstera.compiler.lowering.stretches import Stretch, stretch_table, stretches_of, tap_ranges
from monstera.compiler.lowering.tiling import in_groups, looks_ahead, shared_groups, slices_abreast, tiling_of
from monstera.compiler.packing import Blocks, pack
from monstera.compiler.program import Field, Read, Ref, Sweep
from monstera.compiler.stripes import LAST_LEVEL_BYTES


def lower_conv(low: Lowering, node: Node) -> None:
    """A convolution over planes, or as a matrix product where the output is a single pixel."""
    if isinstance(low.layout(node.name), Flat):
        lower_one_pixel(low, node)
    elif node.name in low.layouts.direct:
        lower_depthwise(low, node)
    else:
        _over_planes(low, node)


def _over_planes(low: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, Conv)
    layout, inside = low.layout(node.name), low.layouts.inputs[node.name]
    assert isinstance(layout, Planes)
    matrix = _conv_matrix(low, node, inside)
    depth = low.taps(node).z
    abreast = slices_abreast(depth, inside, layout)
    stretches = stretches_of(depth, inside, layout, apart=abreast)
    residual = low.planes(node.inputs[1], layout) if len(node.inputs) > 1 else None
    over = residual if residual is not None and residual.name != matrix.x.name else None
    common = _common_fields(low, node, layout, matrix.x, residual, stretches, abreast=abreast)
    vectors = _count(common["vectors"])
    rows = low.tuned.matrix("spmm", matrix.holes, op.groups)
    given = low.tuned.given.get(rows)
    case = Case(spmm_candidates(matrix.holes, op.groups, vectors, low.target, given), vectors)
    shape = (
        common["half"],
        abreast,
        residual is None,
        op.groups,
        matrix.group_stride,
        op.activation,
        vectors,
        *stretches[1:],
    )
    key = low.tuned.key("spmm", np.packbits(matrix.holes), matrix.offsets, shape, given=given)
    for choice, candidate in low.tuned.each_choice(key, case, rows, low.steps):
        for part in candidate.parts:
            _spmm(low, node, matrix, part, choice, common, over, stretches)


def _common_fields(
    low: Lowering,
    node: Node,
    layout: Planes,
    x: Ref,
    residual: Ref | None,
    stretches: Sequence[Stretch],
    *,
    abreast: bool,
) -> dict[str, Field]:
    """The fields of `spmm_args` that are the same for all parts."""
    lanes, longest = low.target.lanes, max(stretches, key=lambda stretch: stretch.run)
    return {
        "x": x,
        "y": low.result(node)[0],
        "res": residual,
        "y_plane": layout.grid.stride,
        "y_tail": layout.grid.stride,
        "mask": low.mask(layout.pixels()),
        "vectors": longest.vectors(lanes),
        "half": int(low.target.halves and longest.ends_in_half(lanes)),
        "groups": 1,
        "stretch": stretch_table(low, stretches),
        "stretches": len(stretches),
        "abreast": int(abreast),
        "far": int(4 * layout.size > LAST_LEVEL_BYTES),
    }


def _spmm(
    low: Lowering,
    node: Node,
    matrix: Matrix,
    part: Part,
    choice: Choice,
    common: dict[str, Field],
    over: Ref | None,
    stretches: Sequence[Stretch],
) -> None:
    """Append the step that computes the rows of one part."""
    op = node.op
    assert isinstance(op, Conv)
    blocks = pack(matrix.values, matrix.holes, part.rows)
    # A channel counts as often as slices of it are read.
    channels = np.unique(blocks.columns // prod(low.taps(node).kernel[1:])).size * op.groups
    if not choice.groups:
        choice = in_groups(low, node, part.size, choice)
    tiling = tiling_of(low, channels, _count(common["vectors"]), part.size, choice)
    groups = choice.groups or shared_groups(low, channels, tiling["chunk"], blocks)
    ahead = looks_ahead(low, part.size, blocks, matrix.holes.shape[1])
    fields = common | column_tables(low, matrix, blocks, low.target.ahead if ahead else 0)
    fields |= _cut_tables(low, matrix, blocks, groups, stretches)
    fields |= {"bias": low.table(matrix.bias[blocks.row]), "blocks": blocks.count} | tiling
    fields["row"] = low.table(blocks.row)
    work = work_of(matrix, part, blocks, prod(node.shape) // node.shape[1])
    work = replace(work, bytes=work.bytes + 8 * work.dense_macs // max(1, matrix.holes.shape[1]))
    run = run_of(fields)
    widths = {width for stretch in stretches for width in _widths(low, run, stretch)}
    kernel = spmm_kernel(part.size, widths, op.activation, low.target, choice.unroll, ahead)
    sweep = _sweep(low, node, matrix.x, common["res"], run, blocks.count) if len(stretches) == 1 else None
    low.add(node, title_of(low, node, blocks), kernel, "spmm_args", fields, work=work, over=over, sweep=sweep)


def _widths(low: Lowering, run: Run, stretch: Stretch) -> set[int]:
    """The tile widths that one stretch of a run needs."""
    vectors = stretch.vectors(low.target.lanes)
    half = low.target.halves and stretch.ends_in_half(low.target.lanes)
    return replace(run, vectors=vectors, half=half).widths([(0, vectors)], low.threads)


def _conv_matrix(low: Lowering, node: Node, inside: Planes) -> Matrix:
    """A convolution's weight on the layout of its input; taps that meet padding for every output are holes.

    Columns are ordered by the tap's depth, then as the weight has them.
    """
    op = node.op
    assert isinstance(op, Conv)
    weight, taps = low.graph.params[op.weight], low.taps(node)
    kernel, channels = taps.kernel, weight.shape[1]
    live = np.zeros((kernel[0], 1, *kernel[1:]), bool)
    offsets = np.zeros((kernel[0], channels, *kernel[1:]), np.int32)
    planes = np.arange(channels) * inside.plane(1)
    for k, i, j in product(taps.z.alive, taps.y.alive, taps.x.alive):
        live[k, 0, i, j] = True
        offsets[k, :, i, j] = planes + inside.tap(0, taps.y.offsets[i], taps.x.offsets[j], taps.z.offsets[k])

    def by_depth(matrix: np.ndarray) -> np.ndarray:
        return matrix.reshape(len(weight), channels, kernel[0], -1).swapaxes(1, 2).reshape(len(weight), -1)

    holes = by_depth(weight == 0) | ~np.broadcast_to(live, offsets.shape).reshape(1, -1)
    x = low.planes(node.inputs[0], inside)
    return Matrix(
        *(by_depth(scaled(low, op)), holes, offsets.reshape(-1), low.bias(op), x),
        groups=op.groups,
        group_stride=inside.plane(channels),
        deep=prod(offsets.shape[1:]),
    )


def _cut_tables(
    low: Lowering, matrix: Matrix, blocks: Blocks, groups: int, stretches: Sequence[Stretch]
) -> dict[str, Field]:
    """The table of blocks with the columns of each in so many groups of neighbours, the first group of all first.

    With several stretches, a table for each range of taps in depth, and in it only their columns.
    """
    if groups == len(stretches) == 1:
        return {"block": block_table(low, matrix, blocks)}
    columns = matrix.holes.shape[1]
    ranges = [(b * matrix.deep, e * matrix.deep) for b, e in tap_ranges(stretches)]
    cuts = np.array([np.clip(np.arange(groups + 1) * columns // groups, *r) for r in ranges])
    at = np.stack(
        [
            np.searchsorted(blocks.columns[start : start + length], cuts)
            for start, length in zip(blocks.start, blocks.length, strict=True)
        ],
        axis=-1,
    )
    first, length = at[:, :-1], np.diff(at, axis=1)
    base = np.broadcast_to(group_offsets(matrix, blocks), first.shape)
    table = np.stack([blocks.start + first, blocks.first + first, length, base], -1)
    return {"block": low.table(table.astype(np.int32)), "groups": groups}


def _sweep(low: Lowering, node: Node, x: Ref, residual: Field, run: Run, blocks: int) -> Sweep:
    """The run vector by vector: each reads as far around itself as the taps reach."""
    lanes, inside, taps = low.target.lanes, low.layouts.inputs[node.name], low.taps(node)
    alive = product(*([axis.offsets[i] for i in axis.alive] for axis in taps))
    at = [inside.tap(0, dy, dx, dz) for dz, dy, dx in alive] or [0]
    if inside.step != (1, 1):
        at = [offset % inside.grid.stride for offset in at]
    reads = [Read(x.name, lanes, min(at), max(at) + lanes)]
    if isinstance(residual, Ref) and residual.space == "arena":
        reads.append(Read(residual.name, lanes, 0, lanes))
    return Sweep(run.vectors, lanes, blocks, low.result(node)[0].name, tuple(reads), run.tile * low.threads)


def _count(field: Field) -> int:
    assert isinstance(field, int)
    return field
