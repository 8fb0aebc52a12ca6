"""Convolutions and linear layers: offset-SpMM where there are planes to run over, SpMV where there is one pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from monstera.compiler.grids import Taps, taps_of
from monstera.compiler.ir import Activation, Add, Conv, Linear, Node
from monstera.compiler.kernels import run_of, spmm_kernel, spmv_kernel
from monstera.compiler.kernels.spmm import Run
from monstera.compiler.layout import LINE, Flat, Planes
from monstera.compiler.lowering.choice import Case, Choice, Part, spmm_candidates, spmv_candidates
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.lowering.depthwise import lower_depthwise
from monstera.compiler.lowering.pointwise import lower_add
from monstera.compiler.packing import Blocks, pack
from monstera.compiler.program import Field, Read, Ref, Sweep, Work
from monstera.runtime import PackingSpec

# What the input chunk of an SpMM may take of the second-level cache; weights and outputs pass through the rest.
CHUNK_BYTES = 384 * 1024
# Cache lines that single rows read over and over (some leave the first-level cache, rarely), and the planes worth it.
GROUP_LINES = 600
GROUPED_FLOATS = 640


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A weight as the kernels see it: `[rows, columns]`, and for each column where it reads, in floats from `x`.

    `holes` are read off the model's own weight, before any scale; columns count within a convolution group, and
    `group_stride` floats lie between the inputs of two groups.
    """

    values: np.ndarray
    holes: np.ndarray
    offsets: np.ndarray
    bias: np.ndarray
    x: Ref
    groups: int = 1
    group_stride: int = 0


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
    if isinstance(layout, Planes) and (layout.n, layout.c * layout.h * layout.w) == (images, weight.shape[1]):
        c, y, x = np.indices(layout.shape[1:]).reshape(3, -1)
        offsets = layout.plane(1) * c + layout.grid.pitch * y + x
        ref, image = low.own(source), layout.grid.rows * layout.grid.pitch
    else:
        offsets, ref, image = np.arange(weight.shape[1]), low.flat(node.inputs[0]), weight.shape[1]
    matrix = _Matrix(_scaled(low, op), weight == 0, offsets.astype(np.int32), low.bias(op), ref)
    _product(low, node, matrix, (images, image), op.activation)


def _over_planes(low: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, Conv)
    layout, inside = low.layout(node.name), low.layouts.inputs[node.name]
    assert isinstance(layout, Planes)
    matrix = _conv_matrix(low, node, inside)
    vectors = -(-layout.run() // low.target.lanes)
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
        "half": int(low.target.halves and 0 < layout.run() % low.target.lanes <= low.target.lanes // 2),
        "groups": 1,
    }
    case = Case(spmm_candidates(matrix.holes, op.groups, vectors, low.target), vectors)
    shape = (common["half"], residual is None, op.groups, matrix.group_stride, op.activation, vectors)
    key = low.key("spmm", np.packbits(matrix.holes), matrix.offsets, shape)
    for choice, candidate in low.each_choice(key, case):
        for part in candidate.parts:
            _spmm(low, node, matrix, part, choice, common, over)


def _spmm(
    low: Lowering,
    node: Node,
    matrix: _Matrix,
    part: Part,
    choice: Choice,
    common: dict[str, Field],
    over: Ref | None,
) -> None:
    """Append the step that computes the rows of one part."""
    op, inside = node.op, low.layouts.inputs[node.name]
    assert isinstance(op, Conv)
    blocks = pack(matrix.values, matrix.holes, part.rows)
    channels = np.unique(blocks.columns // prod(low.graph.params[op.weight].shape[2:])).size * op.groups
    fields = common | _block_tables(low, matrix, blocks)
    if not choice.groups:
        choice = _in_groups(low, node, part.size, choice)
    fields |= _column_groups(low, matrix, blocks, choice.groups)
    fields |= _tiling(low, channels, _count(common["vectors"]), part.size, choice)
    fields["row"] = low.table(blocks.row)
    work = _work(matrix, part, blocks, prod(node.shape) // node.shape[1])
    work = replace(work, bytes=work.bytes + 8 * work.dense_macs // max(1, matrix.holes.shape[1]))
    run = run_of(fields)
    widths = run.widths([(0, run.vectors)], low.threads)
    kernel = spmm_kernel(part.size, widths, op.activation, low.target, choice.unroll)
    sweep = _sweep(low, node, inside, matrix.x, common["res"], run, blocks.count)
    low.add(node, _title(low, node, blocks), kernel, "spmm_args", fields, work=work, over=over, sweep=sweep)


def _conv_matrix(low: Lowering, node: Node, inside: Planes) -> _Matrix:
    """A convolution's weight on the layout of its input; taps that meet padding for every output are holes."""
    op = node.op
    assert isinstance(op, Conv)
    weight = low.graph.params[op.weight]
    taps = _taps(low, node)
    live = np.zeros(weight.shape[2:], bool)
    offsets = np.zeros(weight.shape[1:], np.int32)
    channels = np.arange(weight.shape[1]) * inside.plane(1)
    for i in taps.rows:
        for j in taps.columns:
            live[i, j] = True
            offsets[:, i, j] = channels + inside.tap(0, taps.dy[i], taps.dx[j])
    holes = ((weight == 0) | ~live).reshape(len(weight), -1)
    x = low.planes(node.inputs[0], inside)
    group = inside.plane(weight.shape[1])
    return _Matrix(_scaled(low, op), holes, offsets.reshape(-1), low.bias(op), x, op.groups, group)


def _one_pixel(low: Lowering, node: Node) -> None:
    """A convolution whose output is one pixel: only the taps that hit the image count, and they lie at fixed places."""
    op = node.op
    assert isinstance(op, Conv)
    source = node.inputs[0]
    weight = low.graph.params[op.weight]
    taps = _taps(low, node)
    n, c, h, w = low.shape(source)
    layout = low.layout(source)
    strides = (h * w, w, c * h * w)
    if isinstance(layout, Planes):
        strides = (layout.grid.stride, layout.grid.pitch, layout.grid.rows * layout.grid.pitch)
    live = np.zeros(weight.shape[2:], bool)
    live[np.ix_(taps.rows, taps.columns)] = True
    k, i, j = np.indices(weight.shape[1:])
    offsets = k * strides[0] + np.array(taps.dy)[i] * strides[1] + np.array(taps.dx)[j]
    offsets = np.where(live, offsets, 0).astype(np.int32).reshape(-1)
    holes = ((weight == 0) | ~live).reshape(len(weight), -1)
    group = weight.shape[1] * strides[0]
    matrix = _Matrix(_scaled(low, op), holes, offsets, low.bias(op), low.own(source), op.groups, group)
    if len(node.inputs) == 1:
        _product(low, node, matrix, (n, strides[2]), op.activation)
        return
    _product(low, node, matrix, (n, strides[2]), None)
    lower_add(low, replace(node, op=Add(op.activation), inputs=(node.name, node.inputs[1])))


def _product(
    low: Lowering, node: Node, matrix: _Matrix, images: tuple[int, int], activation: Activation | None
) -> None:
    """Append SpMV steps: y[image, row] = act(matrix @ x + bias); `images` is (how many, floats between two)."""
    case = Case(spmv_candidates(matrix.holes, matrix.groups, images[0], low.target), 0)
    key = low.key("spmv", np.packbits(matrix.holes), matrix.offsets, (images, matrix.groups, activation))
    for _, candidate in low.each_choice(key, case):
        for part in candidate.parts:
            blocks = pack(matrix.values, matrix.holes, part.rows)
            fields = _block_tables(low, matrix, blocks) | {
                "x": matrix.x,
                "y": low.result(node)[0],
                "x_image": images[1],
                "y_image": len(matrix.values),
                "images": images[0],
                "row": None if part.stretch else low.table(blocks.row),
                "first_row": int(blocks.row[0, 0]),
            }
            kernel, work = spmv_kernel(part.size, activation), _work(matrix, part, blocks, images[0])
            low.add(node, _title(low, node, blocks), kernel, "spmv_args", fields, work=work)


def _scaled(low: Lowering, op: Conv | Linear) -> np.ndarray:
    """The weight as `[rows, columns]`, each row times its scale."""
    weight = low.graph.params[op.weight]
    matrix = weight.reshape(len(weight), -1)
    return matrix * low.graph.params[op.scale][:, None] if op.scale else matrix


def _block_tables(low: Lowering, matrix: _Matrix, blocks: Blocks) -> dict[str, Field]:
    table = np.stack([blocks.start, blocks.first, blocks.length, _group_offsets(matrix, blocks)], 1)
    return {
        "offset": low.table(matrix.offsets[blocks.columns]),
        "weight": low.table(blocks.values),
        "block": low.table(table.astype(np.int32)),
        "bias": low.table(matrix.bias[blocks.row]),
        "blocks": blocks.count,
    }


def _in_groups(low: Lowering, node: Node, size: int, choice: Choice) -> Choice:
    """The choice with as many column groups as keep what single rows read of a tile in the first-level cache.

    Single rows load a vector for each multiply-add. Pointwise layers have too few columns a group, and small planes too
    few pixels, to pay for coming back to their sums.
    """
    op, layout = node.op, low.layout(node.name)
    assert isinstance(op, Conv)
    assert isinstance(layout, Planes)
    channels, height, width = low.graph.params[op.weight].shape[1:]
    if size > 1 or height * width == 1 or layout.run() < GROUPED_FLOATS:
        return replace(choice, groups=1)
    tile = low.target.tiles[size]
    floats = tile * low.target.lanes
    together = -(-((height - 1) * layout.grid.pitch + width - 1 + floats) // LINE) + 1
    lines = min(together, height * (floats // LINE + 1))
    groups = -(-channels // max(1, GROUP_LINES // lines))
    return replace(choice, groups=groups, tile=tile, chunk=tile) if groups > 1 else replace(choice, groups=1)


def _column_groups(low: Lowering, matrix: _Matrix, blocks: Blocks, groups: int) -> dict[str, Field]:
    """The table of blocks with the columns of each in so many groups of neighbours, the first group of all first."""
    if groups == 1:
        return {}
    cuts = np.arange(groups + 1) * matrix.holes.shape[1] // groups
    at = np.stack(
        [
            np.searchsorted(blocks.columns[start : start + length], cuts)
            for start, length in zip(blocks.start, blocks.length, strict=True)
        ]
    )
    first, length = at[:, :-1].T, np.diff(at).T
    base = _group_offsets(matrix, blocks)
    table = np.stack([blocks.start + first, blocks.first + first, length, np.broadcast_to(base, first.shape)], 2)
    return {"block": low.table(table.astype(np.int32)), "groups": groups}


def _group_offsets(matrix: _Matrix, blocks: Blocks) -> np.ndarray:
    """Where the inputs of each block's convolution group begin."""
    return blocks.row[:, 0] // (len(matrix.values) // matrix.groups) * matrix.group_stride


def _tiling(low: Lowering, channels: int, vectors: int, size: int, choice: Choice) -> dict[str, Field]:
    """Vectors of a chunk: the planes' share of it fits the cache, and chunks are whole tiles of about equal length."""
    tile = min(low.target.tiles[size], choice.tile or low.target.tiles[size])
    fitting = CHUNK_BYTES // max(1, channels * low.target.lanes * 4)
    chunks = -(-vectors // max(fitting // tile * tile, tile))
    chunk = choice.chunk or max(1, -(-vectors // (chunks * tile)) * tile)
    return {"chunk": chunk, "tile": tile, "by_blocks": int(vectors < 2 * low.threads * tile)}


def _sweep(low: Lowering, node: Node, inside: Planes, x: Ref, residual: Field, run: Run, blocks: int) -> Sweep:
    """The run vector by vector: each reads as far around itself as the taps reach."""
    lanes = low.target.lanes
    taps = _taps(low, node)
    at = [inside.tap(0, taps.dy[i], taps.dx[j]) for i in taps.rows for j in taps.columns] or [0]
    if inside.step != (1, 1):
        at = [offset % inside.grid.stride for offset in at]
    reads = [Read(x.name, lanes, min(at), max(at) + lanes)]
    if isinstance(residual, Ref) and residual.space == "arena":
        reads.append(Read(residual.name, lanes, 0, lanes))
    return Sweep(run.vectors, lanes, blocks, low.result(node)[0].name, tuple(reads), run.tile * low.threads)


def _taps(low: Lowering, node: Node) -> Taps:
    op = node.op
    assert isinstance(op, Conv)
    height, width = low.graph.params[op.weight].shape[2:]
    return taps_of(op, (height, width), low.shape(node.inputs[0]), node.shape)


def _work(matrix: _Matrix, part: Part, blocks: Blocks, pixels: int) -> Work:
    rows = blocks.row.reshape(-1)
    weights = int((~matrix.holes[rows]).sum())
    return Work(
        dense_macs=rows.size * matrix.holes.shape[1] * pixels,
        macs=weights * pixels,
        bytes=4 * (blocks.stored + blocks.columns.size),
        packing=PackingSpec(
            part.order, part.size, blocks.count, matrix.holes.shape[1], weights, blocks.stored, part.flop
        ),
    )


def _title(low: Lowering, node: Node, blocks: Blocks) -> str:
    assert isinstance(node.op, Conv | Linear)
    shape = low.graph.params[node.op.weight].shape
    kind = "linear" if isinstance(node.op, Linear) else f"conv {shape[2]}x{shape[3]}"
    share = blocks.stored / max(1, blocks.row.size * prod(shape[1:]))
    return f"{kind} {shape[1]} to {blocks.row.size} of {shape[0]}, blocks of {blocks.rows}, {share:.3f} stored"


def _count(field: Field) -> int:
    assert isinstance(field, int)
    return field
