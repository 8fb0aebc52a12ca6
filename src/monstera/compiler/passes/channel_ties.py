"""Which channels of an operator's input and output can only be dropped together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from monstera.compiler.ir import (
    Activate,
    AdaptivePool,
    Add,
    Affine,
    Attention,
    AvgPool,
    CachedAttention,
    Compare,
    Concat,
    Constant,
    Conv,
    DepthToSpace,
    Embedding,
    Linear,
    MatMul,
    MaxPool,
    Mean,
    Mul,
    Node,
    Norm,
    Pad,
    Permute,
    Reshape,
    Shape,
    Slice,
    Softmax,
    Upsample,
    Where,
)
from monstera.compiler.ir.interpreter import Array


@dataclass(frozen=True, slots=True)
class Tie:
    """Channel `left_channels[i]` of the value `left` shares the fate of `right_channels[i]` of `right`, for every i."""

    left: str
    left_channels: Array
    right: str
    right_channels: Array

    def spread(self, keep: dict[str, Array]) -> None:
        """Mark in `keep` (booleans per channel) what is tied to a kept channel."""
        kept = keep[self.left][self.left_channels] | keep[self.right][self.right_channels]
        keep[self.left][self.left_channels[kept]] = True
        keep[self.right][self.right_channels[kept]] = True


def channel_ties(node: Node, shapes: Mapping[str, Shape]) -> list[Tie] | None:
    """The ties between a node and its inputs; None if no channel of them may be dropped at all."""
    sources = [shapes[i] for i in node.inputs]
    if any(len(shape) < 2 for shape in (node.shape, *sources)):
        return None
    match node.op:
        case Constant():
            return []
        case Activate() | Affine() | MaxPool() | AvgPool() | AdaptivePool() | Upsample():
            return [_one_to_one(node, node.inputs[0])]
        case Mean(dims):
            return None if dims[0] < 2 else [_one_to_one(node, node.inputs[0])]
        case Permute(dims):
            return None if dims[1] != 1 else [_one_to_one(node, node.inputs[0])]
        case Pad() | Slice():
            moved = node.shape[1] != sources[0][1] or (isinstance(node.op, Pad) and node.op.before[1])
            return None if moved else [_one_to_one(node, node.inputs[0])]
        case Softmax(dim) | Norm(dim):
            return None if dim == 1 else [_one_to_one(node, node.inputs[0])]
        case Add() | Mul() | Compare() | Where():
            same = all(len(s) == len(node.shape) and s[1] == node.shape[1] for s in sources)
            return [_one_to_one(node, i) for i in node.inputs] if same else None
        case Concat(dim):
            return _concat_ties(node, dim, sources)
        case Reshape():
            return _reshape_ties(node, sources[0])
        case DepthToSpace():
            return _block_ties(node, node.op, sources[0])
        case Conv():
            return _conv_ties(node, node.op, sources[0])
        case Linear():
            return [] if len(node.shape) == 2 else None
        case Attention():
            # A mask that tells heads apart would have to lose channels with them.
            return _attention_ties(node, node.op) if all(shape[1] == 1 for shape in sources[3:]) else None
        case Embedding() | MatMul() | CachedAttention():
            return None


def _one_to_one(node: Node, source: str) -> Tie:
    channels = np.arange(node.shape[1])
    return Tie(source, channels, node.name, channels)


def _concat_ties(node: Node, dim: int, sources: list[Shape]) -> list[Tie]:
    if dim != 1:
        return [_one_to_one(node, i) for i in node.inputs]
    ends = np.cumsum([shape[1] for shape in sources])
    return [
        Tie(name, np.arange(shape[1]), node.name, np.arange(end - shape[1], end))
        for name, shape, end in zip(node.inputs, sources, ends, strict=True)
    ]


def _reshape_ties(node: Node, source: Shape) -> list[Tie] | None:
    """A plane that is flattened into dimension 1 makes as many channels as it has pixels."""
    if node.shape[0] != source[0]:
        return None
    if node.shape[1] == source[1]:
        return [_one_to_one(node, node.inputs[0])]
    pixels = prod(source[2:])
    if node.shape[1:] != (source[1] * pixels,):
        return None
    return [Tie(node.inputs[0], np.repeat(np.arange(source[1]), pixels), node.name, np.arange(node.shape[1]))]


def _block_ties(node: Node, op: DepthToSpace, source: Shape) -> list[Tie] | None:
    """All channels that fill the blocks of one channel go with it, as long as groups stay of equal size."""
    if op.groups not in (1, node.shape[1]):
        return None
    phases = np.arange(source[1]).reshape(op.groups, prod(op.block), -1)
    channels = np.arange(node.shape[1])
    return [Tie(node.inputs[0], phases[:, i].reshape(-1), node.name, channels) for i in range(prod(op.block))]


def _conv_ties(node: Node, op: Conv, source: Shape) -> list[Tie] | None:
    ties = [_one_to_one(node, residual) for residual in node.inputs[1:]]
    if op.groups == 1:
        return ties
    if op.groups != source[1]:
        return None
    multiplier = node.shape[1] // source[1]
    channels = np.repeat(np.arange(source[1]), multiplier)
    return [*ties, Tie(node.inputs[0], channels, node.name, np.arange(node.shape[1]))]


def _attention_ties(node: Node, op: Attention) -> list[Tie]:
    """A channel of the values is one of the result, in every head that reads it; queries and keys go in pairs."""
    q, k, v = node.inputs[:3]
    ties = [_range_tie(v, head.v, node.name, head.y) for head in op.heads]
    return ties + [_range_tie(q, head.q, k, head.k) for head in op.heads]


def _range_tie(left: str, of_left: slice, right: str, of_right: slice) -> Tie:
    return Tie(left, np.arange(of_left.start, of_left.stop), right, np.arange(of_right.start, of_right.stop))
