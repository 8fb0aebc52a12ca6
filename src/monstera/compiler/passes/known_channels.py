"""Which channels are the same number everywhere, whatever the input: what dead filters emit, and what becomes of it.

A value's channels are its dimension 1. Known numbers are float64 vectors, one entry a channel, NaN where not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import singledispatch

import numpy as np

from monstera.compiler.ir import (
    Activate,
    AdaptivePool,
    Add,
    Affine,
    Attention,
    AvgPool,
    Concat,
    Constant,
    Conv,
    DepthToSpace,
    Graph,
    Linear,
    MaxPool,
    Mean,
    Mul,
    Node,
    Op,
    Pad,
    Permute,
    Reshape,
    Shape,
    Slice,
    Upsample,
    evaluate,
)
from monstera.compiler.ir.interpreter import Array, Params, activate

Known = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Product:
    """A convolution or linear layer seen as one matrix per group; its input's channels are `[groups, in / groups]`.

    `weight` is `[groups, out / groups, in / groups, positions]`; `reads` (without positions) says whether a filter has
    a weight on a channel that is not zero. `padded`: zeros may stand in for the input's values, so that a channel that
    is known does not give a filter the same number everywhere.
    """

    weight: Array
    reads: Array
    scale: Array
    bias: Array
    padded: bool

    def foldable(self, known: Array) -> Array:
        """Which channels of the input (`[in]`) a filter can replace by a number added to its bias."""
        return (known == 0) | (~np.isnan(known) & (not self.padded))

    def bias_with(self, values: Array) -> Array:
        """The bias (`[out]`) when these numbers (`[in]`, 0 where nothing folds) are added to it."""
        values = values.reshape(self.weight.shape[0], 1, -1)
        # Few channels fold; the others are left out before anything is summed in float64.
        columns = (values != 0).any((0, 1))
        sums = self.weight[:, :, columns].sum(3, dtype=np.float64)
        return self.bias + self.scale * (sums * values[:, :, columns]).sum(2).reshape(-1)

    def emitted(self, known: Array) -> Array:
        """What every filter (`[out]`) emits before its activation, NaN where that depends on the input."""
        free = self.foldable(known)
        blocked = (self.reads & ~free.reshape(self.weight.shape[0], 1, -1)).any(2).reshape(-1)
        return np.where(blocked, np.nan, self.bias_with(np.where(free, known, 0)))


def product(node: Node, params: Params) -> Product | None:
    """The matrix view of a node, or None if it is no product over channels of dimension 1."""
    op = node.op
    if not isinstance(op, Conv) and not (isinstance(op, Linear) and len(node.shape) == 2):
        return None
    groups = op.groups if isinstance(op, Conv) else 1
    weight = params[op.weight]
    filters = len(weight)
    weight = weight.reshape(groups, filters // groups, weight.shape[1], -1)
    scale = np.ones(filters) if op.scale is None else params[op.scale].astype(np.float64)
    bias = np.zeros(filters) if op.bias is None else params[op.bias].astype(np.float64)
    return Product(
        weight=weight,
        reads=(weight != 0).any(3) & (scale != 0).reshape(groups, -1, 1),
        scale=scale,
        bias=bias,
        padded=isinstance(op, Conv) and any(op.padding),
    )


def channel_count(shape: Shape) -> int:
    """The extent of dimension 1; a value without one counts as one channel."""
    return shape[1] if len(shape) > 1 else 1


def known_channels(graph: Graph, products: Mapping[str, Product]) -> Known:
    """For every value the numbers that its channels are known to hold; `products` are the matrix views by node."""
    shapes = graph.shapes()
    known = {name: _nothing(shape) for name, shape in graph.inputs}
    for node in graph.nodes:
        inputs = [known[i] for i in node.inputs]
        if node.name in products and len(inputs) == 1:
            emitted = products[node.name].emitted(inputs[0])
            known[node.name] = activate(getattr(node.op, "activation", None), emitted)
        elif len(node.shape) < 2 or (inputs and all(np.isnan(k).all() for k in inputs)):
            known[node.name] = _nothing(node.shape)
        else:
            known[node.name] = _follow(node.op, node, graph.params, shapes, inputs)
        known[node.name][np.isinf(known[node.name])] = np.nan
    return known


def _nothing(shape: Shape) -> Array:
    return np.full(channel_count(shape), np.nan)


@singledispatch
def _follow(_op: Op, node: Node, _params: Params, _shapes: Mapping[str, Shape], _inputs: list[Array]) -> Array:
    """The known channels of a node from those of its inputs. By default nothing is known."""
    return _nothing(node.shape)


@_follow.register(Activate)
@_follow.register(Affine)
@_follow.register(Add)
@_follow.register(Mul)
def _(op: Op, node: Node, params: Params, shapes: Mapping[str, Shape], inputs: list[Array]) -> Array:
    """One pixel stands for the plane."""
    if any(len(shapes[i]) != len(node.shape) for i in node.inputs):
        return _nothing(node.shape)
    ones = (1,) * (len(node.shape) - 2)
    pixels = [k.reshape(1, -1, *ones) for k in inputs]
    if isinstance(op, Mul):
        # Zero times anything is zero, known or not.
        pixels = [np.where((pixels[0] == 0) | (pixels[1] == 0), 0, p) for p in pixels]
    return evaluate(replace(node, shape=(1, node.shape[1], *ones)), pixels, params).reshape(-1)


@_follow.register(Constant)
@_follow.register(Concat)
@_follow.register(MaxPool)
@_follow.register(AvgPool)
@_follow.register(AdaptivePool)
@_follow.register(Upsample)
@_follow.register(Mean)
@_follow.register(Reshape)
@_follow.register(Permute)
@_follow.register(DepthToSpace)
@_follow.register(Pad)
@_follow.register(Slice)
def _(_op: Op, node: Node, params: Params, shapes: Mapping[str, Shape], inputs: list[Array]) -> Array:
    """Fill planes with what is known and look what comes out: NaN, the unknown, spreads by itself."""
    filled = [_planes(k, shapes[i]) for k, i in zip(inputs, node.inputs, strict=True)]
    channels = np.moveaxis(evaluate(node, filled, params), 1, 0).reshape(node.shape[1], -1)
    same = np.ptp(channels, axis=1) <= 1e-12 * np.abs(channels[:, 0])
    return np.where(same, channels[:, 0], np.nan)


@_follow.register
def _(op: Attention, node: Node, _params: Params, _shapes: Mapping[str, Shape], inputs: list[Array]) -> Array:
    """Weights of a softmax add up to one, except that a mask may hide all keys: zeros are left then."""
    numbers = np.concatenate([inputs[2][head.v] for head in op.heads])
    return numbers if len(node.inputs) == 3 else np.where(numbers == 0, 0, np.nan)


def _planes(known: Array, shape: Shape) -> Array:
    values = known.reshape(1, -1, *[1] * (len(shape) - 2)) if len(shape) > 1 else known[0]
    return np.broadcast_to(values, shape)
