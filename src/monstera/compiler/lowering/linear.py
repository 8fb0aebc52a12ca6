"""Linear layers, and convolutions whose output is one pixel: products of a matrix and vectors, by SpMV."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from monstera.compiler.ir import Activation, Add, Conv, Linear, Node
from monstera.compiler.kernels import spmv_kernel, spmv_unified_kernel
from monstera.compiler.layout import Planes
from monstera.compiler.lowering.choice import Case, Part, spmv_candidates
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.lowering.matrix import (
    Matrix,
    group_offsets,
    product_fields,
    scaled,
    spmv_fields,
    spmv_work,
    title_of,
    work_of,
)
from monstera.compiler.lowering.pointwise import lower_add
from monstera.compiler.lowering.unified import near, unified_candidates, unified_columns
from monstera.compiler.lowering.windows import as_five
from monstera.compiler.packing import pack


def lower_linear(low: Lowering, node: Node) -> None:
    """A linear layer on the last dimension; a flattened image is read where it lies."""
    op = node.op
    assert isinstance(op, Linear)
    weight = low.graph.params[op.weight]
    images = prod(node.shape[:-1])
    source = low.unreshaped(node.inputs[0])
    layout = low.layout(source)
    if isinstance(layout, Planes) and (layout.n, prod(layout.shape[1:])) == (images, weight.shape[1]):
        image, *strides = layout.strides
        offsets = np.tensordot(strides, np.indices(layout.shape[1:]), 1).reshape(-1)
        ref = low.own(source)
    else:
        offsets, ref, image = np.arange(weight.shape[1]), low.flat(node.inputs[0]), weight.shape[1]
    matrix = Matrix(scaled(low, op), weight == 0, offsets.astype(np.int32), low.bias(op), ref)
    _product(low, node, matrix, (images, image), op.activation)


def lower_one_pixel(low: Lowering, node: Node) -> None:
    """A convolution whose output is one pixel: only the taps that hit the image count, and they lie at fixed places."""
    op = node.op
    assert isinstance(op, Conv)
    source = node.inputs[0]
    weight, taps = low.graph.params[op.weight], low.taps(node)
    image, channel, *spatial = as_five(low.layout(source).strides, 0)
    live = np.zeros(taps.kernel, bool)
    live[np.ix_(*(axis.alive for axis in taps))] = True
    channels, *kernel = np.indices((weight.shape[1], *live.shape))
    offsets = channels * channel
    for axis, places, stride in zip(taps, kernel, spatial, strict=True):
        offsets = offsets + np.array(axis.offsets)[places] * stride
    offsets = np.where(live, offsets, 0).astype(np.int32).reshape(-1)
    holes = (weight == 0).reshape(len(weight), -1) | ~np.broadcast_to(live, channels.shape).reshape(1, -1)
    group = weight.shape[1] * channel
    matrix = Matrix(scaled(low, op), holes, offsets, low.bias(op), low.own(source), op.groups, group)
    images = (node.shape[0], image)
    if len(node.inputs) == 1:
        _product(low, node, matrix, images, op.activation)
        return
    _product(low, node, matrix, images, None)
    lower_add(low, replace(node, op=Add(op.activation), inputs=(node.name, node.inputs[1])))


def _product(low: Lowering, node: Node, matrix: Matrix, images: tuple[int, int], activation: Activation | None) -> None:
    """Append SpMV steps: y[image, row] = act(matrix @ x + bias); `images` is (how many, floats between two)."""
    rows = low.tuned.matrix("spmv", matrix.holes, matrix.groups)
    given = low.tuned.given.get(rows)
    candidates = spmv_candidates(matrix.holes, matrix.groups, images[0], low.target, given)
    if near(matrix.offsets):
        candidates = unified_candidates(candidates, matrix.values, matrix.holes, images[0], low.target)
    unified = [candidate.sizes for candidate in candidates if any(part.unified for part in candidate.parts)]
    key = low.tuned.key(
        "spmv", np.packbits(matrix.holes), matrix.offsets, (images, matrix.groups, activation), *unified, given=given
    )
    for _, candidate in low.tuned.each_choice(key, Case(candidates, 0), rows, low.steps):
        for part in candidate.parts:
            _spmv(low, node, matrix, part, images, activation)


def _spmv(
    low: Lowering, node: Node, matrix: Matrix, part: Part, images: tuple[int, int], activation: Activation | None
) -> None:
    """Append the step that computes the rows of one part."""
    blocks = pack(matrix.values, matrix.holes, part.rows)
    y, title = low.result(node)[0], title_of(low, node, blocks)
    if not part.unified:
        fields, work = spmv_fields(low, matrix, part, blocks, y, images), spmv_work(matrix, part, blocks, images[0])
        low.add(node, title, spmv_kernel(part.size, activation), "spmv_args", fields, work=work)
        return
    columns = unified_columns(blocks, matrix.offsets, group_offsets(matrix, blocks))
    fields = product_fields(low, matrix, part, blocks, y, images) | columns.tables(low)
    title += f", {len(columns.magnitude)} of {len(columns.offset)} columns unified"
    work = replace(work_of(matrix, part, blocks, images[0]), bytes=columns.nbytes)
    low.add(node, title, spmv_unified_kernel(part.size, activation), "spmv_unified_args", fields, work=work)
