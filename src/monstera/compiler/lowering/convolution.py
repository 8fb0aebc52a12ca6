"""Convolutions and linear layers: offset-SpMM where there are planes to run over, SpMV where there is one pixel."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from monstera.compiler.grids import taps_of
from monstera.compiler.ir import Activation, Add, Conv2d, Linear, Node
from monstera.compiler.kernels import activation_kernel, spmm_kernel, spmv_kernel
from monstera.compiler.layout import Flat, Layout, Planes
from monstera.compiler.lowering.choice import spmm_rows, spmv_rows
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.lowering.pointwise import lower_add
from monstera.compiler.packing import Blocks, pack
from monstera.compiler.program import Field, Ref, Work

# What the input chunk of an SpMM may take of the second-level cache; weights and outputs pass through the rest.
CHUNK_BYTES = 384 * 1024


def lower_conv2d(low: Lowering, node: Node) -> None:
    """A convolution over planes, or as a matrix product where the output is a single pixel."""
    if isinstance(low.layout(node.name), Flat):
        _one_pixel(low, node)
        return
    op = node.op
    assert isinstance(op, Conv2d)
    layout, inside = low.layout(node.name), low.layouts.inputs[node.name]
    assert isinstance(layout, Planes)
    weight, (scale, bias) = low.graph.params[op.weight], _scale_bias(low, op)
    taps = taps_of(op, (weight.shape[2], weight.shape[3]), low.shape(node.inputs[0]), node.shape)
    live = np.zeros(weight.shape[2:], bool)
    live[np.ix_(taps.rows, taps.columns)] = True
    holes = ((weight == 0) | ~live).reshape(len(weight), -1)
    values = (weight * scale[:, None, None, None]).reshape(holes.shape)
    offsets = np.full(weight.shape[1:], 0, np.int32)
    for i in taps.rows:
        for j in taps.columns:
            offsets[:, i, j] = [inside.tap(c, taps.dy[i], taps.dx[j]) for c in range(weight.shape[1])]

    x = low.planes(node.inputs[0], inside)
    y, _ = low.result(node)
    residual = low.planes(node.inputs[1], layout) if len(node.inputs) > 1 else None
    vectors = -(-layout.run() // low.target.lanes)
    pixels = prod(node.shape) // node.shape[1]
    for size, rows in spmm_rows(holes, op.groups, vectors, low.target):
        blocks = pack(values, holes, rows, size)
        used = np.unique(blocks.columns // live.size).size * op.groups
        fields: dict[str, Field] = {
            "x": x,
            "y": y,
            "res": residual,
            "y_plane": layout.grid.stride,
            "y_tail": layout.grid.stride,
            **_block_tables(low, blocks, offsets.reshape(-1), inside.plane(weight.shape[1]), op.groups, len(weight)),
            "row": low.table(blocks.row),
            "bias": low.table(bias[blocks.row]),
            "mask": low.mask(layout.pixels()),
            "blocks": blocks.count,
            "vectors": vectors,
            "chunk": _chunk(used, vectors, size, low),
            "by_blocks": int(vectors < 2 * low.threads * low.target.tiles[size]),
        }
        work = Work(
            dense_macs=blocks.row.size * holes.shape[1] * pixels,
            macs=int((~holes[blocks.row.reshape(-1)]).sum()) * pixels,
            bytes=4 * (blocks.stored + blocks.columns.size) + 8 * pixels * blocks.row.size,
        )
        kernel = spmm_kernel(size, op.activation)
        low.add(node, _title(node, weight.shape, blocks), kernel, "spmm_args", fields, work=work)


def lower_linear(low: Lowering, node: Node) -> None:
    """A linear layer on the last dimension; a flattened image is read where it lies."""
    op = node.op
    assert isinstance(op, Linear)
    weight = low.graph.params[op.weight]
    images = prod(node.shape[:-1])
    source = low.unreshaped(node.inputs[0])
    layout = low.layout(source)
    if isinstance(layout, Planes) and (layout.n, layout.c * layout.h * layout.w) == (images, weight.shape[1]):
        index = np.indices(layout.shape[1:]).reshape(3, -1)
        offsets = layout.plane(1) * index[0] + layout.grid.pitch * index[1] + index[2]
        x, stride = low.own(source), layout.grid.rows * layout.grid.pitch
    else:
        offsets, x, stride = np.arange(weight.shape[1]), low.flat(node.inputs[0]), weight.shape[1]
    _product(low, node, (x, stride, offsets.astype(np.int32)), images, weight == 0, weight, op.activation)


def _one_pixel(low: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, Conv2d)
    source = node.inputs[0]
    weight = low.graph.params[op.weight]
    taps = taps_of(op, (weight.shape[2], weight.shape[3]), low.shape(source), node.shape)
    n, c, h, w = low.shape(source)
    layout: Layout = low.layout(source)
    channel, row, image = h * w, w, c * h * w
    if isinstance(layout, Planes):
        channel, row, image = layout.grid.stride, layout.grid.pitch, layout.grid.rows * layout.grid.pitch
    live = np.zeros(weight.shape[2:], bool)
    live[np.ix_(taps.rows, taps.columns)] = True
    k, i, j = np.indices(weight.shape[1:])
    offsets = k * channel + np.array(taps.dy)[i] * row + np.array(taps.dx)[j]
    offsets = np.where(live, offsets, 0).astype(np.int32).reshape(-1)
    holes = ((weight == 0) | ~live).reshape(len(weight), -1)
    group = weight.shape[1] * channel
    alone = node if len(node.inputs) == 1 else replace(node, op=replace(op, activation=None))
    assert isinstance(alone.op, Conv2d)
    x = (low.own(source), image, offsets)
    _product(low, alone, x, n, holes, weight.reshape(holes.shape), alone.op.activation, op.groups, group)
    if alone is not node:
        joined = replace(node, op=Add(op.activation), inputs=(node.name, node.inputs[1]))
        lower_add(low, joined)


def _product(
    low: Lowering,
    node: Node,
    x: tuple[Ref, int, np.ndarray],
    images: int,
    holes: np.ndarray,
    weight: np.ndarray,
    activation: Activation | None,
    groups: int = 1,
    group_stride: int = 0,
) -> None:
    """Append SpMV steps: y[image, row] = act(weight @ x[image * stride + offsets] + bias)."""
    op = node.op
    assert isinstance(op, Conv2d | Linear)
    scale, bias = _scale_bias(low, op)
    values = weight * scale[:, None]
    y, _ = low.result(node)
    source, stride, offsets = x
    for size, rows in spmv_rows(holes, groups):
        blocks = pack(values, holes, rows, size)
        fields: dict[str, Field] = {
            "x": source,
            "y": y,
            "x_image": stride,
            "y_image": len(weight),
            **_block_tables(low, blocks, offsets, group_stride, groups, len(weight)),
            "bias": low.table(bias[blocks.row]),
            "blocks": blocks.count,
            "images": images,
            "first_row": rows[0],
        }
        work = Work(
            dense_macs=blocks.row.size * holes.shape[1] * images,
            macs=int((~holes[np.asarray(rows)]).sum()) * images,
            bytes=4 * (blocks.stored + blocks.columns.size),
        )
        operands = (activation_kernel(activation),)
        low.add(node, _title(node, weight.shape, blocks), spmv_kernel(size), "spmv_args", fields, operands, work)


def _scale_bias(low: Lowering, op: Conv2d | Linear) -> tuple[np.ndarray, np.ndarray]:
    rows = len(low.graph.params[op.weight])
    scale = low.graph.params[op.scale] if op.scale else np.ones(rows, np.float32)
    bias = low.graph.params[op.bias] if op.bias else np.zeros(rows, np.float32)
    return scale, bias


def _block_tables(
    low: Lowering, blocks: Blocks, offsets: np.ndarray, group_stride: int, groups: int, rows: int
) -> dict[str, Field]:
    base = blocks.row[:, 0] // (rows // groups) * group_stride
    # Tables are read a little ahead of their use; one entry more keeps that inside.
    table = np.stack([blocks.start, blocks.first, blocks.length, base], 1).astype(np.int32)
    return {
        "offset": low.table(np.append(offsets[blocks.columns], 0).astype(np.int32)),
        "weight": low.table(blocks.values),
        "block": low.table(table),
    }


def _chunk(channels: int, vectors: int, size: int, low: Lowering) -> int:
    """Vectors of a chunk: the planes' share of it fits the cache, and chunks are whole tiles of about equal length."""
    tile = low.target.tiles[size]
    fitting = CHUNK_BYTES // max(1, channels * low.target.lanes * 4)
    chunks = -(-vectors // max(fitting // tile * tile, tile))
    return max(1, -(-vectors // (chunks * tile)) * tile)


def _title(node: Node, weight: tuple[int, ...], blocks: Blocks) -> str:
    op = node.op
    dense = blocks.row.size * int(np.prod(weight[1:]))
    kind = "linear" if isinstance(op, Linear) else f"conv {weight[2]}x{weight[3]}" if len(weight) == 4 else "conv 1x1"
    share = blocks.stored / dense if dense else 0.0
    return f"{kind} {weight[1]} to {blocks.row.size} of {weight[0]}, blocks of {blocks.rows}, {share:.3f} stored"
