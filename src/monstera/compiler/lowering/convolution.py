"""Convolutions and linear layers: offset-SpMM where there are planes to run over, SpMV where there is one pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod

import numpy as np

from monstera.compiler.ir import Activation, Add, Conv, Linear, Node
from monstera.compiler.kernels import run_of, spmm_kernel, spmv_kernel, spmv_unified_kernel
from monstera.compiler.kernels.spmm import Run
from monstera.compiler.layout import LINE, Flat, Planes, three
from monstera.compiler.lowering.choice import Case, Choice, Part, spmm_candidates, spmv_candidates
from monstera.compiler.lowering.context import Lowering, strides_of
from monstera.compiler.lowering.depthwise import lower_depthwise
from monstera.compiler.lowering.matrix import (
    Matrix,
    block_table,
    column_tables,
    group_offsets,
    product_fields,
    spmv_fields,
    spmv_work,
    work_of,
)
from monstera.compiler.lowering.pointwise import lower_add
from monstera.compiler.lowering.stretches import Stretch, stretch_table, stretches_of, tap_ranges
from monstera.compiler.lowering.unified import near, unified_candidates, unified_columns
from monstera.compiler.lowering.windows import as_five
from monstera.compiler.packing import Blocks, pack
from monstera.compiler.program import Field, Read, Ref, Sweep
from monstera.compiler.stripes import LAST_LEVEL_BYTES
from monstera.compiler.taps import Axis, Taps, taps_of

# What the input chunk of an SpMM may take of the second-level cache; weights and outputs pass through the rest.
CHUNK_BYTES = 384 * 1024
# Cache lines that single rows read over and over (some leave the first-level cache, rarely), and the planes worth it.
GROUP_LINES = 600
GROUPED_FLOATS = 640
# Columns that a block should have in each group on average.
GROUP_COLUMNS = 64


def lower_conv(low: Lowering, node: Node) -> None:
    """A convolution over planes, or as a matrix product where the output is a single pixel."""
    if isinstance(low.layout(node.name), Flat):
        _one_pixel(low, node)
    elif node.name in low.layouts.direct:
        lower_depthwise(low, node)
    else:
        _over_planes(low, node)


def lower_linear(low: Lowering, node: Node) -> None:
    """A linear layer on the last dimension; a flattened image is read where it lies."""
    op = node.op
    assert isinstance(op, Linear)
    weight = low.graph.params[op.weight]
    images = prod(node.shape[:-1])
    source = low.unreshaped(node.inputs[0])
    layout = low.layout(source)
    if isinstance(layout, Planes) and (layout.n, prod(layout.shape[1:])) == (images, weight.shape[1]):
        image, *strides = strides_of(layout)
        offsets = np.tensordot(strides, np.indices(layout.shape[1:]), 1).reshape(-1)
        ref = low.own(source)
    else:
        offsets, ref, image = np.arange(weight.shape[1]), low.flat(node.inputs[0]), weight.shape[1]
    matrix = Matrix(_scaled(low, op), weight == 0, offsets.astype(np.int32), low.bias(op), ref)
    _product(low, node, matrix, (images, image), op.activation)


def _over_planes(low: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, Conv)
    layout, inside = low.layout(node.name), low.layouts.inputs[node.name]
    assert isinstance(layout, Planes)
    matrix = _conv_matrix(low, node, inside)
    depth, lanes = _taps(low, node).z, low.target.lanes
    abreast = _abreast(depth, inside, layout)
    stretches = stretches_of(depth, inside, layout, apart=abreast)
    longest = max(stretches, key=lambda stretch: stretch.run)
    vectors = longest.vectors(lanes)
    residual = low.planes(node.inputs[1], layout) if len(node.inputs) > 1 else None
    over = residual if residual is not None and residual.name != matrix.x.name else None
    common: dict[str, Field] = {
        "x": matrix.x,
        "y": low.result(node)[0],
        "res": residual,
        "y_plane": layout.grid.stride,
        "y_tail": layout.grid.stride,
        "mask": low.mask(layout.pixels()),
        "vectors": vectors,
        "half": int(low.target.halves and longest.ends_in_half(lanes)),
        "groups": 1,
        "stretch": stretch_table(low, stretches),
        "stretches": len(stretches),
        "abreast": int(abreast),
        "far": int(4 * layout.size > LAST_LEVEL_BYTES),
    }
    rows = low.matrix("spmm", matrix.holes, op.groups)
    given = low.given.get(rows)
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
    key = low.key("spmm", np.packbits(matrix.holes), matrix.offsets, shape, given=given)
    for choice, candidate in low.each_choice(key, case, rows):
        for part in candidate.parts:
            _spmm(low, node, matrix, part, choice, common, over, stretches)


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
    channels = np.unique(blocks.columns // prod(_kernel(low, op)[1:])).size * op.groups
    if not choice.groups:
        choice = _in_groups(low, node, part.size, choice)
    tiling = _tiling(low, channels, _count(common["vectors"]), part.size, choice)
    groups = choice.groups or _shared_groups(low, channels, _count(tiling["chunk"]), blocks)
    fields = common | column_tables(low, matrix, blocks) | _cut_tables(low, matrix, blocks, groups, stretches)
    fields |= {"bias": low.table(matrix.bias[blocks.row]), "blocks": blocks.count} | tiling
    fields["row"] = low.table(blocks.row)
    work = work_of(matrix, part, blocks, prod(node.shape) // node.shape[1])
    work = replace(work, bytes=work.bytes + 8 * work.dense_macs // max(1, matrix.holes.shape[1]))
    run = run_of(fields)
    widths = {width for stretch in stretches for width in _widths(low, run, stretch)}
    kernel = spmm_kernel(part.size, widths, op.activation, low.target, choice.unroll)
    sweep = _sweep(low, node, matrix.x, common["res"], run, blocks.count) if len(stretches) == 1 else None
    low.add(node, _title(low, node, blocks), kernel, "spmm_args", fields, work=work, over=over, sweep=sweep)


def _abreast(depth: Axis, inside: Planes, layout: Planes) -> bool:
    """Whether slices take turns, a chunk of pixels each: where they share input that outgrows the cache meanwhile.

    The end of a slice is then stored after the beginning of the next, and must not reach into it.
    """
    shares = depth.out > 1 and len(depth.alive) > 1 and layout.apart
    return shares and 4 * len(depth.alive) * inside.c * inside.grid.slice > CHUNK_BYTES


def _widths(low: Lowering, run: Run, stretch: Stretch) -> set[int]:
    """The tile widths that one stretch of a run needs."""
    vectors = stretch.vectors(low.target.lanes)
    half = low.target.halves and stretch.ends_in_half(low.target.lanes)
    return replace(run, vectors=vectors, half=half).widths([(0, vectors)], low.threads)


def _kernel(low: Lowering, op: Conv) -> tuple[int, int, int]:
    """The extent of a kernel in depth, height and width."""
    return three(low.graph.params[op.weight].shape[2:], 1)


def _conv_matrix(low: Lowering, node: Node, inside: Planes) -> Matrix:
    """A convolution's weight on the layout of its input; taps that meet padding for every output are holes.

    Columns are ordered by the tap's depth, then as the weight has them.
    """
    op = node.op
    assert isinstance(op, Conv)
    weight, taps, kernel = low.graph.params[op.weight], _taps(low, node), _kernel(low, op)
    channels = weight.shape[1]
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
        *(by_depth(_scaled(low, op)), holes, offsets.reshape(-1), low.bias(op), x),
        groups=op.groups,
        group_stride=inside.plane(channels),
        deep=prod(offsets.shape[1:]),
    )


def _one_pixel(low: Lowering, node: Node) -> None:
    """A convolution whose output is one pixel: only the taps that hit the image count, and they lie at fixed places."""
    op = node.op
    assert isinstance(op, Conv)
    source = node.inputs[0]
    weight, taps = low.graph.params[op.weight], _taps(low, node)
    image, channel, *spatial = as_five(strides_of(low.layout(source)), 0)
    live = np.zeros(_kernel(low, op), bool)
    live[np.ix_(*(axis.alive for axis in taps))] = True
    channels, *kernel = np.indices((weight.shape[1], *live.shape))
    offsets = channels * channel
    for axis, places, stride in zip(taps, kernel, spatial, strict=True):
        offsets = offsets + np.array(axis.offsets)[places] * stride
    offsets = np.where(live, offsets, 0).astype(np.int32).reshape(-1)
    holes = (weight == 0).reshape(len(weight), -1) | ~np.broadcast_to(live, channels.shape).reshape(1, -1)
    group = weight.shape[1] * channel
    matrix = Matrix(_scaled(low, op), holes, offsets, low.bias(op), low.own(source), op.groups, group)
    images = (node.shape[0], image)
    if len(node.inputs) == 1:
        _product(low, node, matrix, images, op.activation)
        return
    _product(low, node, matrix, images, None)
    lower_add(low, replace(node, op=Add(op.activation), inputs=(node.name, node.inputs[1])))


def _product(low: Lowering, node: Node, matrix: Matrix, images: tuple[int, int], activation: Activation | None) -> None:
    """Append SpMV steps: y[image, row] = act(matrix @ x + bias); `images` is (how many, floats between two)."""
    rows = low.matrix("spmv", matrix.holes, matrix.groups)
    given = low.given.get(rows)
    candidates = spmv_candidates(matrix.holes, matrix.groups, images[0], low.target, given)
    if near(matrix.offsets):
        candidates = unified_candidates(candidates, matrix.values, matrix.holes, images[0], low.target)
    unified = [candidate.sizes for candidate in candidates if any(part.unified for part in candidate.parts)]
    key = low.key(
        "spmv", np.packbits(matrix.holes), matrix.offsets, (images, matrix.groups, activation), *unified, given=given
    )
    for _, candidate in low.each_choice(key, Case(candidates, 0), rows):
        for part in candidate.parts:
            _spmv(low, node, matrix, part, images, activation)


def _spmv(
    low: Lowering, node: Node, matrix: Matrix, part: Part, images: tuple[int, int], activation: Activation | None
) -> None:
    """Append the step that computes the rows of one part."""
    blocks = pack(matrix.values, matrix.holes, part.rows)
    y, title = low.result(node)[0], _title(low, node, blocks)
    if not part.unified:
        fields, work = spmv_fields(low, matrix, part, blocks, y, images), spmv_work(matrix, part, blocks, images[0])
        low.add(node, title, spmv_kernel(part.size, activation), "spmv_args", fields, work=work)
        return
    columns = unified_columns(blocks, matrix.offsets, group_offsets(matrix, blocks))
    fields = product_fields(low, matrix, part, blocks, y, images) | columns.tables(low)
    title += f", {len(columns.magnitude)} of {len(columns.offset)} columns unified"
    work = replace(work_of(matrix, part, blocks, images[0]), bytes=columns.nbytes)
    low.add(node, title, spmv_unified_kernel(part.size, activation), "spmv_unified_args", fields, work=work)


def _scaled(low: Lowering, op: Conv | Linear) -> np.ndarray:
    """The weight as `[rows, columns]`, each row times its scale."""
    weight = low.graph.params[op.weight]
    matrix = weight.reshape(len(weight), -1)
    return matrix * low.graph.params[op.scale][:, None] if op.scale else matrix


def _in_groups(low: Lowering, node: Node, size: int, choice: Choice) -> Choice:
    """The choice with as many column groups as keep what single rows read of a tile in the first-level cache.

    Single rows load a vector for each multiply-add. Pointwise layers have too few columns a group, and small planes too
    few pixels, to pay for coming back to their sums. Larger blocks are left as they are: they share what they load.
    """
    op, layout = node.op, low.layout(node.name)
    assert isinstance(op, Conv)
    assert isinstance(layout, Planes)
    depth, height, width = _kernel(low, op)
    channels = low.graph.params[op.weight].shape[1] * depth
    if size > 1:
        return choice
    if height * width == 1 or layout.run() < GROUPED_FLOATS:
        return replace(choice, groups=1)
    tile = low.target.tiles[size]
    floats = tile * low.target.lanes
    together = -(-((height - 1) * layout.grid.pitch + width - 1 + floats) // LINE) + 1
    lines = min(together, height * (floats // LINE + 1))
    groups = -(-channels // max(1, GROUP_LINES // lines))
    return replace(choice, groups=groups, tile=tile, chunk=tile) if groups > 1 else replace(choice, groups=1)


def _shared_groups(low: Lowering, channels: int, chunk: int, blocks: Blocks) -> int:
    """As many column groups as keep what they read of a chunk in the second-level cache, where one tile outgrows it.

    A block comes back to its sums once a group, which has to have enough columns of it to be worth that.
    """
    wanted = -(-_chunk_bytes(low, channels) * chunk // CHUNK_BYTES)
    return max(1, min(wanted, blocks.columns.size // (GROUP_COLUMNS * blocks.count)))


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


def _tiling(low: Lowering, channels: int, vectors: int, size: int, choice: Choice) -> dict[str, int]:
    """Vectors of a chunk: the planes' share of it fits the cache, and chunks are whole tiles of about equal length."""
    tile = min(low.target.tiles[size], choice.tile or low.target.tiles[size])
    fitting = CHUNK_BYTES // _chunk_bytes(low, channels)
    chunks = -(-vectors // max(fitting // tile * tile, tile))
    chunk = vectors if vectors <= fitting else max(1, -(-vectors // (chunks * tile)) * tile)
    return {"chunk": choice.chunk or chunk, "tile": tile, "by_blocks": int(vectors < 2 * low.threads * tile)}


def _chunk_bytes(low: Lowering, channels: int) -> int:
    """What one vector of every channel takes."""
    return 4 * low.target.lanes * max(1, channels)


def _sweep(low: Lowering, node: Node, x: Ref, residual: Field, run: Run, blocks: int) -> Sweep:
    """The run vector by vector: each reads as far around itself as the taps reach."""
    lanes, inside, taps = low.target.lanes, low.layouts.inputs[node.name], _taps(low, node)
    alive = product(*([axis.offsets[i] for i in axis.alive] for axis in taps))
    at = [inside.tap(0, dy, dx, dz) for dz, dy, dx in alive] or [0]
    if inside.step != (1, 1):
        at = [offset % inside.grid.stride for offset in at]
    reads = [Read(x.name, lanes, min(at), max(at) + lanes)]
    if isinstance(residual, Ref) and residual.space == "arena":
        reads.append(Read(residual.name, lanes, 0, lanes))
    return Sweep(run.vectors, lanes, blocks, low.result(node)[0].name, tuple(reads), run.tile * low.threads)


def _taps(low: Lowering, node: Node) -> Taps:
    op = node.op
    assert isinstance(op, Conv)
    return taps_of(op, low.graph.params[op.weight].shape[2:], low.shape(node.inputs[0]), node.shape)


def _title(low: Lowering, node: Node, blocks: Blocks) -> str:
    assert isinstance(node.op, Conv | Linear)
    shape = low.graph.params[node.op.weight].shape
    kind = "linear" if isinstance(node.op, Linear) else f"conv {'x'.join(map(str, shape[2:]))}"
    share = blocks.stored / max(1, blocks.row.size * prod(shape[1:]))
    return f"{kind} {shape[1]} to {blocks.row.size} of {shape[0]}, blocks of {blocks.rows}, {share:.3f} stored"


def _count(field: Field) -> int:
    assert isinstance(field, int)
    return field
