"""Operators that only move values: joins, pads, cuts, permutations; and softmax, which works on dense tensors."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from monstera.compiler.ir import Concat, Node, Pad, Permute, Slice, Softmax
from monstera.compiler.kernels import SOFTMAX
from monstera.compiler.layout import Flat, Planes
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.lowering.copies import COPY
from monstera.compiler.lowering.windows import grid_args
from monstera.compiler.program import Field, Step, Work


def lower_concat(low: Lowering, node: Node) -> None:
    """Copy what was not already made in its slot."""
    assert isinstance(node.op, Concat)
    dim = node.op.dim
    place = 0
    planes = isinstance(low.layout(node.name), Planes)
    for value in node.inputs:
        at = tuple(place if d == dim else 0 for d in range(len(node.shape)))
        place += low.shape(value)[dim]
        if low.in_place(value, node.name):
            continue
        if planes:
            _into_slot(low, node, value, at[1])
        else:
            low.paste(node, value, at, (0,) * len(at), low.shape(value))


def _into_slot(low: Lowering, node: Node, value: str, channel: int) -> None:
    layout = low.layout(node.name)
    assert isinstance(layout, Planes)
    part = replace(layout, c=low.shape(value)[1])
    to, clears = low.result(node)
    low.copy(
        f"{value} into {node.name}",
        value,
        part,
        to + layout.plane(channel),
        clears=clears if channel == 0 else (),
        layer=node.layer or node.name,
    )


def lower_pad(low: Lowering, node: Node) -> None:
    """Fill with the value, then lay the source into the middle; negative padding crops."""
    op = node.op
    assert isinstance(op, Pad)
    _fill(low, node, op.value)
    source = low.shape(node.inputs[0])
    start = tuple(max(0, -b) for b in op.before)
    at = tuple(max(0, b) for b in op.before)
    count = tuple(max(0, min(s - f, o - a)) for s, f, o, a in zip(source, start, node.shape, at, strict=True))
    if prod(count):
        low.paste(node, node.inputs[0], at, start, count)


def _fill(low: Lowering, node: Node, value: float) -> None:
    """Every element of a node's value the same, gaps zero."""
    to, clears = low.result(node)
    grid = grid_args(low.layout(node.name))
    strides: dict[str, Field] = dict.fromkeys(("x_image", "x_channel", "x_slice", "x_row", "x_column"), 0)
    extent: dict[str, Field] = {"n": grid.n, "c": grid.c, "d": grid.d, "h": grid.h, "w": grid.w}
    whole: dict[str, Field] = {"y": grid, "y_channel": grid.plane, "whole": int(grid.tail >= 0)}
    operands = (low.table(np.array([value], np.float32)), to, 0, to)
    work = Work(bytes=4 * prod(node.shape))
    fields = strides | extent | whole
    low.steps.append(
        Step(
            node.layer or node.name,
            f"fill {node.name}",
            COPY,
            "copy_args",
            fields,
            operands,
            writes=(node.name,),
            clears=clears,
            work=work,
        )
    )


def lower_slice(low: Lowering, node: Node) -> None:
    """A strided window of the source; one that is a run of it stays there."""
    op = node.op
    assert isinstance(op, Slice)
    if low.run_start(node) is not None:
        return
    to, clears = low.result(node)
    layout = low.layout(node.name)
    layer = node.layer or node.name
    low.copy("slice", node.inputs[0], layout, to, start=op.start, step=op.step, clears=clears, layer=layer)


def lower_permute(low: Lowering, node: Node) -> None:
    """The dimensions of the source in another order."""
    op = node.op
    assert isinstance(op, Permute)
    to, clears = low.result(node)
    layer, value, into = node.layer or node.name, node.inputs[0], low.layout(node.name)
    if len(node.shape) <= 5:
        low.copy("permute", value, into, to, dims=op.dims, clears=clears, layer=layer)
        return
    shape, dims = merged_dims(low.shape(value), op.dims)
    low.copy("permute", value, Flat(tuple(shape[d] for d in dims)), to, dims=dims, seen_as=Flat(shape), layer=layer)


def merged_dims(shape: tuple[int, ...], dims: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The same permutation of fewer dimensions: those that stay together are one, those of extent one go."""
    groups: list[list[int]] = []
    for d in (d for d in dims if shape[d] != 1):
        if groups and all(shape[e] == 1 for e in range(groups[-1][-1] + 1, d)) and groups[-1][-1] < d:
            groups[-1].append(d)
        else:
            groups.append([d])
    order = sorted(groups)
    return tuple(prod(shape[d] for d in g) for g in order), tuple(order.index(g) for g in groups)


def lower_softmax(low: Lowering, node: Node) -> None:
    """Softmax over one dimension of a dense tensor."""
    assert isinstance(node.op, Softmax)
    dim, shape = node.op.dim, node.shape
    sizes = (prod(shape[:dim]), shape[dim], prod(shape[dim + 1 :]))
    operands = (low.flat(node.inputs[0]), low.result(node)[0], *sizes)
    low.add(node, "softmax", SOFTMAX, "", {}, operands, Work(bytes=8 * prod(shape)))
