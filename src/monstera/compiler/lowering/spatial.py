"""Pooling, means over space and resizing: kernels that read and write any layout by its strides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from monstera.compiler.ir import AdaptivePool, AvgPool, MaxPool, Mean, Node, Upsample
from monstera.compiler.kernels import POOLS, RESIZE
from monstera.compiler.layout import Planes
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.lowering.windows import grid_args
from monstera.compiler.program import Field, GridArgs, Ref, Sweep, Work


def lower_pool(low: Lowering, node: Node) -> None:
    """Maximum or mean of windows."""
    op = node.op
    assert isinstance(op, MaxPool | AvgPool)
    x, gx = _input(low, node)
    dilation = op.dilation if isinstance(op, MaxPool) else (1, 1)
    fields: dict[str, Field] = {
        "x": gx,
        "y": grid_args(low.layout(node.name)),
        "kernel_h": op.kernel[0],
        "kernel_w": op.kernel[1],
        "stride_h": op.stride[0],
        "stride_w": op.stride[1],
        "top": op.padding[0],
        "left": op.padding[1],
        "dilation_h": dilation[0],
        "dilation_w": dilation[1],
        "factor": None if isinstance(op, MaxPool) else low.table(low.graph.params[op.factor]),
    }
    kind = "max" if isinstance(op, MaxPool) else "mean"
    title = f"{kind} pool {op.kernel[0]}x{op.kernel[1]} by {op.stride[0]}x{op.stride[1]}"
    y = low.result(node)[0]
    reach = (op.kernel[0] - 1) * dilation[0] + 1
    sweep = _rows(low, node, op.stride[0], op.padding[0], reach)
    low.add(node, title, POOLS[kind], "pool_args", fields, (x, y), _traffic(gx, fields["y"]), sweep=sweep)


def _rows(low: Lowering, node: Node, stride: int, top: int, reach: int) -> Sweep | None:
    """A pool row by row, where both sides lie in planes."""
    layout = low.layout(node.name)
    reads = low.reads_rows(node.inputs[0], stride, -top, reach - top)
    if reads is None or not isinstance(layout, Planes):
        return None
    return Sweep(layout.h, layout.grid.pitch, layout.c, low.result(node)[0].name, reads)


def lower_adaptive(low: Lowering, node: Node) -> None:
    """Mean or maximum over torch's adaptive windows; over the whole image it is `mean`."""
    op = node.op
    assert isinstance(op, AdaptivePool)
    if op.mode == "mean" and node.shape[2:] == (1, 1):
        lower_mean(low, replace(node, op=Mean((2, 3))))
        return
    x, gx = _input(low, node)
    fields: dict[str, Field] = {"x": gx, "y": grid_args(low.layout(node.name))}
    operands = (int(op.mode == "max"), x, low.result(node)[0])
    low.add(node, f"adaptive {op.mode} pool", POOLS["adaptive"], "pool_args", fields, operands, _traffic(gx))


def lower_mean(low: Lowering, node: Node) -> None:
    """The mean over height and width."""
    x, gx = _input(low, node)
    fields: dict[str, Field] = {name: getattr(gx, name) for name in GridArgs.__slots__}
    low.add(node, "mean over space", POOLS["space"], "grid", fields, (x, low.result(node)[0]), _traffic(gx))


def lower_upsample(low: Lowering, node: Node) -> None:
    """Nearest or bilinear resizing by index tables."""
    op = node.op
    assert isinstance(op, Upsample)
    x, gx = _input(low, node)
    fields: dict[str, Field] = {"x": gx, "y": grid_args(low.layout(node.name))}
    for axis, name in ((0, "row"), (1, "column")):
        lower, upper, weight = _sources(op, axis, (gx.h, gx.w)[axis], node.shape[2 + axis])
        fields[f"{name}0"], fields[f"{name}1"] = low.table(lower), low.table(upper)
        fields[f"{name}_weight"] = low.table(weight)
    low.add(node, f"{op.mode} resize", RESIZE, "resize_args", fields, (x, low.result(node)[0]), _traffic(gx))


def _sources(op: Upsample, axis: int, size: int, out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output index the two sources and the weight of the second, in torch's fp32 arithmetic."""
    index, step = np.arange(out, dtype=np.float32), np.float32(op.step[axis])
    if op.mode == "nearest":
        source = np.minimum(np.floor(index * step).astype(np.int32), size - 1)
        return source, source, np.zeros(out, np.float32)
    half = np.float32(0.5)
    place = index * step if op.align_corners else np.maximum((index + half) * step - half, np.float32(0))
    lower = np.minimum(place.astype(np.int32), size - 1)
    upper = np.minimum(lower + 1, size - 1)
    return lower, upper.astype(np.int32), np.clip(place - lower, 0, 1).astype(np.float32)


def _input(low: Lowering, node: Node) -> tuple[Ref, GridArgs]:
    value = node.inputs[0]
    return low.own(value), grid_args(low.layout(value))


def _traffic(*grids: Field) -> Work:
    return Work(bytes=sum(4 * g.n * g.c * g.h * g.w for g in grids if isinstance(g, GridArgs)))
