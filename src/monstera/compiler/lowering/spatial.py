"""Pooling, means, resizing and pixels from channels: kernels that read and write any layout by its strides."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from monstera.compiler.ir import AdaptivePool, AvgPool, DepthToSpace, MaxPool, Mean, Node, Upsample
from monstera.compiler.ir.interpreter import source_pixels
from monstera.compiler.kernels import POOLS, RESIZE, WEAVE
from monstera.compiler.layout import Planes, three
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.lowering.windows import as_five, grid_args
from monstera.compiler.program import Field, GridArgs, Ref, Sweep, Work


def lower_pool(low: Lowering, node: Node) -> None:
    """Maximum or mean of windows."""
    op = node.op
    assert isinstance(op, MaxPool | AvgPool)
    x, gx = _input(low, node)
    kernel, stride, rank = three(op.kernel, 1), three(op.stride, 1), len(op.kernel)
    before, after = three(op.padding[:rank], 0), three(op.padding[rank:], 0)
    dilation = three(op.dilation, 1) if isinstance(op, MaxPool) else (1, 1, 1)
    fields: dict[str, Field] = {"x": gx, "y": grid_args(low.layout(node.name))}
    for name, numbers in (("kernel", kernel), ("stride", stride), ("dilation", dilation)):
        fields |= {f"{name}_{axis}": number for axis, number in zip("dhw", numbers, strict=True)}
    fields |= dict(zip(("front", "top", "left"), before, strict=True))
    fields["factor"] = None if isinstance(op, MaxPool) else low.table(low.graph.params[op.factor])
    kind = "max" if isinstance(op, MaxPool) else "mean"
    deep = "deep " if (kernel[0], before[0], after[0]) != (1, 0, 0) else ""
    title = f"{kind} pool {'x'.join(map(str, op.kernel))} by {'x'.join(map(str, op.stride))}"
    y = low.result(node)[0]
    reach = (kernel[1] - 1) * dilation[1] + 1
    sweep = _rows(low, node, stride[1], before[1], reach)
    low.add(node, title, POOLS[deep + kind], "pool_args", fields, (x, y), _traffic(gx, fields["y"]), sweep=sweep)


def _rows(low: Lowering, node: Node, stride: int, top: int, reach: int) -> Sweep | None:
    """A pool row by row, where both sides lie in planes."""
    layout = low.layout(node.name)
    reads = low.reads_rows(node.inputs[0], stride, -top, reach - top)
    if reads is None or not isinstance(layout, Planes) or layout.d > 1:
        return None
    return Sweep(layout.h, layout.grid.pitch, layout.c, low.result(node)[0].name, reads)


def lower_adaptive(low: Lowering, node: Node) -> None:
    """Mean or maximum over torch's adaptive windows; over the whole image it is `mean`."""
    op = node.op
    assert isinstance(op, AdaptivePool)
    if op.mode == "mean" and prod(node.shape[2:]) == 1:
        lower_mean(low, replace(node, op=Mean(tuple(range(2, len(node.shape))))))
        return
    x, gx = _input(low, node)
    fields: dict[str, Field] = {"x": gx, "y": grid_args(low.layout(node.name))}
    operands = (int(op.mode == "max"), x, low.result(node)[0])
    low.add(node, f"adaptive {op.mode} pool", POOLS["adaptive"], "pool_args", fields, operands, _traffic(gx))


def lower_mean(low: Lowering, node: Node) -> None:
    """The mean over all spatial dimensions, or over any."""
    op = node.op
    assert isinstance(op, Mean)
    x, gx = _input(low, node)
    y, rank = low.result(node)[0], len(low.shape(node.inputs[0]))
    fields: dict[str, Field] = {name: getattr(gx, name) for name in GridArgs.__slots__}
    if rank > 2 and op.dims == tuple(range(2, rank)):
        low.add(node, "mean over space", POOLS["space"], "grid", fields, (x, y), _traffic(gx))
        return
    chosen = as_five([1 << d if d in op.dims else 0 for d in range(rank)], 0)
    over = sum(1 << i for i, bit in enumerate(chosen) if bit)
    title = f"mean over dimensions {', '.join(map(str, op.dims))}"
    low.add(node, title, POOLS["dimensions"], "grid", fields, (over, x, y), _traffic(gx))


def lower_upsample(low: Lowering, node: Node) -> None:
    """Nearest or linear resizing by index tables."""
    op = node.op
    assert isinstance(op, Upsample)
    x, gx = _input(low, node)
    fields: dict[str, Field] = {"x": gx, "y": grid_args(low.layout(node.name))}
    # A dimension that is missing has one pixel, which stays.
    steps = (1.0,) * (3 - len(op.step)) + op.step
    sizes = zip(("slice", "row", "column"), steps, (gx.d, gx.h, gx.w), three(node.shape[2:], 1), strict=True)
    for name, step, size, out in sizes:
        lower, upper, weight = source_pixels(op, size, out, step)
        fields[f"{name}0"], fields[f"{name}1"] = (low.table(t.astype(np.int32)) for t in (lower, upper))
        fields[f"{name}_weight"] = low.table(weight.astype(np.float32))
    low.add(node, f"{op.mode} resize", RESIZE, "resize_args", fields, (x, low.result(node)[0]), _traffic(gx))


def lower_depth_to_space(low: Lowering, node: Node) -> None:
    """Pixels from channels."""
    op = node.op
    assert isinstance(op, DepthToSpace)
    x, gx = _input(low, node)
    block = three(op.block, 1)
    fields: dict[str, Field] = {"x": gx, "y": grid_args(low.layout(node.name)), "groups": op.groups}
    fields |= {f"block_{axis}": number for axis, number in zip("dhw", block, strict=True)}
    title = f"{'x'.join(map(str, op.block))} pixels from channels"
    low.add(node, title, WEAVE, "weave_args", fields, (x, low.result(node)[0]), _traffic(gx, fields["y"]))


def _input(low: Lowering, node: Node) -> tuple[Ref, GridArgs]:
    value = node.inputs[0]
    return low.own(value), grid_args(low.layout(value))


def _traffic(*grids: Field) -> Work:
    return Work(bytes=sum(4 * g.n * g.c * g.d * g.h * g.w for g in grids if isinstance(g, GridArgs)))
