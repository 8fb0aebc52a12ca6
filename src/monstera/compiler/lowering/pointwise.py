"""Elementwise operators: activations, per-channel scales, sums, products and choices with broadcasting."""

from __future__ import annotations

from math import prod

import numpy as np

from monstera.compiler.ir import Activate, Activation, Add, Affine, Compare, Mul, Node, Shape
from monstera.compiler.kernels import map_kernel
from monstera.compiler.layout import Planes
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.program import Field, Ref, Work


def lower_activate(low: Lowering, node: Node) -> None:
    """One function of every element."""
    assert isinstance(node.op, Activate)
    fields = _whole(low, node)
    _map(low, node, "none", node.op.activation, fields, (_same(low, node, node.inputs[0]), None, None))


def lower_affine(low: Lowering, node: Node) -> None:
    """x * scale[c] + shift[c]."""
    op = node.op
    assert isinstance(op, Affine)
    fields = _per_channel(low, node, images=False) | {"b_channel": 1, "b_image": 0}
    scale, shift = (low.table(low.graph.params[k].reshape(-1)) for k in (op.scale, op.shift))
    _map(low, node, "affine", op.activation, fields, (_same(low, node, node.inputs[0]), scale, shift))


def lower_add(low: Lowering, node: Node) -> None:
    """a + b."""
    _binary(low, node, "add")


def lower_mul(low: Lowering, node: Node) -> None:
    """a * b."""
    _binary(low, node, "mul")


def lower_compare(low: Lowering, node: Node) -> None:
    """1 where a comparison holds, else 0."""
    assert isinstance(node.op, Compare)
    a, b = (_same(low, node, i) for i in node.inputs)
    _map(low, node, node.op.kind, None, _alike(low, node), (a, b, None))


def lower_where(low: Lowering, node: Node) -> None:
    """One of two by a condition."""
    condition, a, b = (_same(low, node, i) for i in node.inputs)
    _map(low, node, "where", None, _alike(low, node), (condition, a, b))


def _alike(low: Lowering, node: Node) -> dict[str, Field]:
    """Runs of operands that all lie as the result does."""
    fields = _whole(low, node)
    return fields | {"b_channel": fields["a_channel"], "b_image": fields["a_image"]}


def _binary(low: Lowering, node: Node, kind: str) -> None:
    assert isinstance(node.op, Add | Mul)
    a, b = node.inputs
    if low.shape(a) != node.shape:
        a, b = b, a
    other = _padded(low.shape(b), len(node.shape))
    scalar_like = len(node.shape) > 2 and prod(other[2:]) == 1 and low.shape(b) != node.shape
    if not scalar_like or low.shape(a) != node.shape:
        operands = (_same(low, node, a), _same(low, node, b), None)
        _map(low, node, kind, node.op.activation, _alike(low, node), operands)
        return
    fields = _per_channel(low, node, images=other[0] > 1)
    fields |= {"b_channel": int(other[1] > 1), "b_image": other[1] if other[0] > 1 else 0}
    _map(low, node, f"{kind}_one", node.op.activation, fields, (_same(low, node, a), low.flat(b), None))


def _map(
    low: Lowering,
    node: Node,
    kind: str,
    activation: Activation | None,
    fields: dict[str, Field],
    operands: tuple[Ref | None, ...],
) -> None:
    y, _ = low.result(node)
    work = Work(bytes=4 * prod(node.shape) * (2 + (operands[1] is not None)))
    name = activation.kind if activation else ""
    low.add(node, f"{kind} {name}".strip(), map_kernel(kind, activation), "map_args", fields, (*operands, y), work)


def _same(low: Lowering, node: Node, value: str) -> Ref:
    """An operand in the node's own layout and shape."""
    layout = low.layout(node.name)
    if isinstance(layout, Planes):
        return low.planes(value, layout)
    return low.flat(value) if low.shape(value) == node.shape else low.copied(value, layout)


def _whole(low: Lowering, node: Node) -> dict[str, Field]:
    """Runs for an operator that treats all channels alike: planes one by one, a dense tensor in one go."""
    if isinstance(low.layout(node.name), Planes):
        return _per_channel(low, node, images=False)
    total = prod(node.shape)
    strides = ("a_channel", "a_image", "y_channel", "y_image")
    return {"c": 1, "n": 1, "length": total, "last": total, **dict.fromkeys(strides, 0), "mask": None}


def _per_channel(low: Lowering, node: Node, *, images: bool) -> dict[str, Field]:
    """Runs for an operator that has one number a channel (and, with `images`, an image)."""
    layout = low.layout(node.name)
    if not isinstance(layout, Planes):
        n, c, length = node.shape[0], node.shape[1], prod(node.shape[2:])
        return _runs((c, n), (length, length), (length, c * length), None)
    grid = layout.grid
    image = grid.image
    if not images or layout.n == 1:
        return _runs((layout.c, 1), (grid.stride, grid.stride), (grid.stride, 0), low.mask(layout.pixels()))
    last = grid.stride - (layout.n - 1) * image
    pixels = layout.pixels()[:image]
    mask = low.mask(np.concatenate([pixels, np.zeros(last - image, bool)]))
    return _runs((layout.c, layout.n), (image, last), (grid.stride, image), mask)


def _runs(
    count: tuple[int, int], lengths: tuple[int, int], strides: tuple[int, int], mask: Ref | None
) -> dict[str, Field]:
    channel, image = strides
    return {
        "c": count[0],
        "n": count[1],
        "length": lengths[0],
        "last": lengths[1],
        "a_channel": channel,
        "a_image": image,
        "y_channel": channel,
        "y_image": image,
        "mask": mask,
    }


def _padded(shape: Shape, rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + tuple(shape)
