"""Depthwise convolutions straight from the planes they read."""

from __future__ import annotations

from math import prod

from monstera.compiler.ir import Conv, Node
from monstera.compiler.kernels import depthwise_kernel
from monstera.compiler.layout import Planes
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.lowering.windows import grid_args
from monstera.compiler.program import Field, Read, Sweep, Work


def lower_depthwise(low: Lowering, node: Node) -> None:
    """A convolution with as many groups as channels, whose input has pads for its whole kernel (`grids.is_direct`)."""
    op, layout = node.op, low.layout(node.name)
    inside = low.layouts.inputs[node.name]
    assert isinstance(op, Conv)
    assert isinstance(layout, Planes)
    weight = low.graph.params[op.weight]
    height, width = weight.shape[2:]
    matrix = weight.reshape(len(weight), -1)
    x = low.planes(node.inputs[0], inside)
    residual = low.planes(node.inputs[1], layout) if len(node.inputs) > 1 else None
    fields: dict[str, Field] = {
        "x": x + inside.tap(0, -op.padding[0], -op.padding[1]),
        "y": low.result(node)[0],
        "res": residual,
        "x_row": inside.grid.pitch,
        "x_image": inside.grid.rows * inside.grid.pitch,
        "x_plane": inside.grid.stride,
        "y_grid": grid_args(layout),
        "weight": low.table(matrix * low.graph.params[op.scale][:, None] if op.scale else matrix),
        "bias": low.table(low.bias(op)),
    }
    pixels = prod(node.shape) // node.shape[1]
    work = Work(
        dense_macs=matrix.size * pixels,
        macs=int((matrix != 0).sum()) * pixels,
        bytes=4 * matrix.size + 8 * prod(node.shape),
    )
    title = f"depthwise {height}x{width} of {len(weight)}, direct"
    kernel = depthwise_kernel((height, width), (op.stride[0], op.stride[1]), op.activation, low.target)
    low.add(node, title, kernel, "depthwise_args", fields, work=work, sweep=_sweep(low, node, inside, layout))


def _sweep(low: Lowering, node: Node, inside: Planes, layout: Planes) -> Sweep | None:
    """Row by row."""
    op = node.op
    assert isinstance(op, Conv)
    height = low.graph.params[op.weight].shape[2]
    if layout.n != 1:
        return None
    reads = [
        Read(low.planes(node.inputs[0], inside).name, op.stride[0] * inside.grid.pitch, *_span(op, height, inside))
    ]
    if len(node.inputs) > 1:
        pitch = layout.grid.pitch
        reads.append(Read(low.planes(node.inputs[1], layout).name, pitch, 0, pitch))
    return Sweep(layout.h, layout.grid.pitch, layout.c, low.result(node)[0].name, tuple(reads), 4)


def _span(op: Conv, height: int, inside: Planes) -> tuple[int, int]:
    pitch = inside.grid.pitch
    return -op.padding[0] * pitch - op.padding[1], (height - op.padding[0]) * pitch
