"""Says which values lie in planes, and how convolutions read them: in place, in phases, or row by row."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import prod

import numpy as np

from monstera.compiler.ir import (
    Activate,
    AdaptivePool,
    Add,
    Affine,
    Attention,
    AvgPool,
    Concat,
    Conv,
    DepthToSpace,
    Embedding,
    Graph,
    MaxPool,
    Mul,
    Node,
    Norm,
    Pad,
    Permute,
    Shape,
    Slice,
    Upsample,
)
from monstera.compiler.layout import three

_IMAGES = (Conv, MaxPool, AvgPool, AdaptivePool, Upsample, DepthToSpace)
_PLANAR = (*_IMAGES, Affine, Activate, Add, Mul, Concat, Pad, Slice)


def planar_values(graph: Graph) -> set[str]:
    """The values that lie in planes: those of image operators, with more than one pixel, and what is between them."""
    users, planar = graph.users(), set()
    if not any(_asks_for_planes(node) for node in graph.nodes):
        return planar
    for node in graph.nodes:
        if _has_pixels(node.shape) and _is_planar(node, planar, users[node.name]):
            planar.add(node.name)
    return planar


def _asks_for_planes(node: Node) -> bool:
    """Whether an operator works on planes; those that take any layout are better off dense where none does."""
    match node.op:
        case Norm(dim=1) | Embedding(dim=1) | Attention():
            return True
        case op:
            return isinstance(op, _IMAGES)


def _is_planar(node: Node, planar: Collection[str], users: Iterable[Node]) -> bool:
    match node.op:
        case Permute():
            return any(isinstance(user.op, _IMAGES) for user in users)
        case Concat(dim) if dim != 1:
            return False
        case _ if _asks_for_planes(node):
            return True
        case _:
            # Three dimensions may also be tokens of a sequence, which are better left alone.
            image = len(node.shape) != 3 or any(i in planar for i in node.inputs)
            return isinstance(node.op, _PLANAR) and image


def _has_pixels(shape: Shape) -> bool:
    """Whether a shape is `[N, C, *spatial]`, of one to three spatial dimensions, with more than one pixel."""
    return 3 <= len(shape) <= 5 and prod(shape[2:]) > 1


def is_strided(op: Conv) -> bool:
    """Whether a convolution reads phase planes."""
    return three(op.stride, 1)[1:] != (1, 1)


def is_direct(node: Node, graph: Graph, planar: Collection[str]) -> bool:
    """Whether a depthwise convolution reads its input's planes row by row, whatever its stride.

    Narrow planes would fill vectors badly that way, and kernels with many holes are better skipped through; both go the
    way of all other convolutions.
    """
    op = node.op
    if not isinstance(op, Conv) or node.name not in planar or node.inputs[0] not in planar:
        return False
    weight, image = graph.params[op.weight], len(node.shape) < 5
    depthwise = op.groups == len(weight) > 1 and weight.shape[1] == 1
    small = max(weight.shape[2:]) <= 7 and set(op.dilation) == {1} and min(op.padding) >= 0 and op.stride[-1] <= 2
    wide = node.shape[-1] >= 10 or is_strided(op)
    return image and depthwise and small and wide and 2 * np.count_nonzero(weight) >= weight.size
