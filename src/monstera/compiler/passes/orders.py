"""A graph made anew in which values have their dimensions in other orders, which are noted and not computed.

Only where somebody needs a value in a certain order is it permuted, once for all who need it so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from itertools import count
from math import prod
from typing import TypeAlias

import numpy as np

from monstera.compiler.ir import Graph, Node, Op, Permute, Reshape, Shape
from monstera.compiler.ir.interpreter import Array

Dims: TypeAlias = tuple[int, ...]


@dataclass(slots=True)
class Walk:
    """The new graph in the making.

    An old value is `places[name]` = (new value, dims): its dimension d is dimension `dims[d]` of the new one.
    `old_shapes` are those of the old values, `shapes` those of the new ones.
    """

    graph: InitVar[Graph]
    params: dict[str, Array] = field(init=False)
    old_shapes: dict[str, Shape] = field(init=False)
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    places: dict[str, tuple[str, Dims]] = field(default_factory=dict)
    _made: dict[str, Node] = field(default_factory=dict)
    _moved: dict[tuple[str, Op, Shape], str] = field(default_factory=dict)

    def __post_init__(self, graph: Graph) -> None:
        self.params, self.old_shapes = dict(graph.params), graph.shapes()
        for name, shape in graph.inputs:
            self.shapes[name] = shape
            self.places[name] = (name, same(shape))

    def put(self, node: Node, dims: Dims | None = None) -> None:
        """Append a node; the old value of its name is its result, in this order of dimensions."""
        self._append(node)
        self.places[node.name] = (node.name, same(node.shape) if dims is None else dims)

    def plain(self, value: str) -> str:
        """An old value as it was."""
        return self.permuted(value, range(len(self.places[value][1])))

    def permuted(self, value: str, dims: Sequence[int]) -> str:
        """An old value whose dimension `dims[d]` comes d-th."""
        name, order = self.places[value]
        return self._permute(name, tuple(order[d] for d in dims))

    def widened(self, value: str, rank: int, dims: Sequence[int]) -> str:
        """Likewise, with dimensions of extent one before it up to this rank."""
        missing = rank - len(self.places[value][1])
        if missing == 0:
            return self.permuted(value, dims)
        plain = self.plain(value)
        return self._permute(self.reshape(plain, (1,) * missing + self.shapes[plain]), tuple(dims))

    def reshape(self, name: str, shape: Shape) -> str:
        """A new value in another shape."""
        while (node := self._made.get(name)) is not None and isinstance(node.op, Reshape):
            name = node.inputs[0]
        return name if self.shapes[name] == shape else self._move(name, Reshape(), shape)

    def _permute(self, name: str, dims: Dims) -> str:
        if dims == same(dims):
            return name
        shape = self.shapes[name]
        turned = tuple(shape[d] for d in dims)
        order = [d for d in dims if shape[d] > 1]
        left = sorted(order)
        if order != left:
            # Dimensions of extent one stand aside: what is turned then is a plain matrix, mostly.
            ones = len(shape) - len(left)
            name = self.reshape(name, (1,) * ones + tuple(shape[d] for d in left))
            turn = (*range(ones), *(ones + left.index(d) for d in order))
            name = self._move(name, Permute(turn), tuple(self.shapes[name][d] for d in turn))
        return self.reshape(name, turned)

    def _move(self, name: str, op: Op, shape: Shape) -> str:
        """A permutation or reshape of a new value, made once."""
        key = (name, op, shape)
        if key not in self._moved:
            names = (f"{name}:moved.{i}" for i in count())
            free = next(n for n in names if n not in self.shapes and n not in self.old_shapes)
            layer = self._made[name].layer if name in self._made else ""
            self._append(Node(free, op, (name,), shape, layer))
            self._moved[key] = free
        return self._moved[key]

    def _append(self, node: Node) -> None:
        self.nodes.append(node)
        self._made[node.name] = node
        self.shapes[node.name] = node.shape


def reshaped(source: Shape, order: Dims, target: Shape) -> tuple[Shape, Dims] | None:
    """A reshape of a value whose dimensions come in another order, as a reshape of the value and another order.

    The value has shape `source`, and dimension d of what is reshaped is its dimension `order[d]`. The answer is a shape
    of the same value, and which of its dimensions the dimensions of the target are; None where a dimension of the
    target joins what is apart in memory.
    """
    if 0 in target:
        return None
    # Dimensions of extent one have no place of their own.
    dims, left = [d for d in order if source[d] > 1], [j for j, size in enumerate(target) if size > 1]
    rank_of = {d: i for i, d in enumerate(sorted(dims))}
    pieces: list[tuple[int, list[int]]] = []
    while dims:
        joined, parts = [dims.pop(0)], [left.pop(0)]
        while (a := prod(source[d] for d in joined)) != (b := prod(target[j] for j in parts)):
            if a < b:
                joined.append(dims.pop(0))
            else:
                parts.append(left.pop(0))
        if [rank_of[d] for d in joined] != list(range(rank_of[joined[0]], rank_of[joined[0]] + len(joined))):
            return None
        pieces.append((joined[0], parts))
    arranged = [j for _, parts in sorted(pieces) for j in parts]
    for j, size in enumerate(target):
        if size == 1:
            arranged.insert(arranged.index(j - 1) + 1 if j else 0, j)
    return tuple(target[j] for j in arranged), tuple(arranged.index(j) for j in range(len(target)))


def same(dims: Sequence[int]) -> Dims:
    """The order of as many dimensions as they are."""
    return tuple(range(len(dims)))


def inverse(dims: Dims) -> Dims:
    """The order that undoes one."""
    return tuple(int(d) for d in np.argsort(dims))
