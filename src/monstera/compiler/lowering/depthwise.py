"""Depthwise convolutions straight from the planes they read."""

from __future__ import annotations

from math import prod

from monstera.compiler.ir import Conv, Node
from monstera.compiler.kernels import depthwise_kernel
from monstera.compiler.layout import Planes
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.lowering.matrix import scaled
from monstera.compiler.lowering.windows import grid_args
from monstera.compiler.program import Field, Read, Sweep, Work
from monstera.compiler.taps import Taps


def lower_depthwise(low: Lowering, node: Node) -> None:
    """A convolution with as many groups as channels, whose input has pads for its whole kernel (`planar.is_direct`)."""
    op, layout = node.op, low.layout(node.name)
    inside = low.layouts.inputs[node.name]
    assert isinstance(op, Conv)
    assert isinstance(layout, Planes)
    weight = low.graph.params[op.weight]
    taps = low.taps(node)
    _, height, width = taps.kernel
    matrix = weight.reshape(len(weight), -1)
    x = low.planes(node.inputs[0], inside)
    residual = low.planes(node.inputs[1], layout) if len(node.inputs) > 1 else None
    fields: dict[str, Field] = {
        "x": x + inside.tap(0, taps.y.offsets[0], taps.x.offsets[0]),
        "y": low.result(node)[0],
        "res": residual,
        "x_row": inside.grid.pitch,
        "x_image": inside.grid.image,
        "x_plane": inside.grid.stride,
        "y_grid": grid_args(layout),
        "weight": low.table(scaled(low, op)),
        "bias": low.table(low.bias(op)),
    }
    pixels = prod(node.shape) // node.shape[1]
    work = Work(
        dense_macs=matrix.size * pixels,
        macs=int((matrix != 0).sum()) * pixels,
        bytes=4 * matrix.size + 8 * prod(node.shape),
    )
    title = f"depthwise {height}x{width} of {len(weight)}, direct"
    kernel = depthwise_kernel((height, width), (taps.y.stride, taps.x.stride), op.activation, low.target)
    low.add(node, title, kernel, "depthwise_args", fields, work=work, sweep=_sweep(low, node, inside, layout, taps))


def _sweep(low: Lowering, node: Node, inside: Planes, layout: Planes, taps: Taps) -> Sweep | None:
    """Row by row."""
    if layout.n != 1:
        return None
    pitch, top = inside.grid.pitch, taps.y.offsets[0]
    first, past = top * pitch + taps.x.offsets[0], (top + len(taps.y.offsets)) * pitch
    reads = [Read(low.planes(node.inputs[0], inside).name, taps.y.stride * pitch, first, past)]
    if len(node.inputs) > 1:
        pitch = layout.grid.pitch
        reads.append(Read(low.planes(node.inputs[1], layout).name, pitch, 0, pitch))
    return Sweep(layout.h, layout.grid.pitch, layout.c, low.result(node)[0].name, tuple(reads), 4)
