"""Let networks over tokens compute channels first, so that a linear layer is a convolution over planes.

Models keep features last: `[batch, tokens, features]`. Here each value of the new graph stands for an old one with its
dimensions in another order, which is noted and not computed. Linear layers, norms and look-ups ask for features in
dimension 1; elementwise operators, cuts and joins take what they are given; attention is defined channels first. The
permutations that are left are those between the network and its caller, mostly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from monstera.compiler.ir import (
    Activate,
    Add,
    Attention,
    CachedAttention,
    Compare,
    Concat,
    Conv,
    Embedding,
    Graph,
    Linear,
    Mean,
    Mul,
    Node,
    Norm,
    Op,
    Pad,
    Permute,
    Reshape,
    Shape,
    Slice,
    Softmax,
    Where,
)
from monstera.compiler.ir.interpreter import Array
from monstera.compiler.passes.fold_constants import fold_constants
from monstera.compiler.passes.rewrite import new_key

# With fewer tokens in all a linear layer is faster as it is: its weights are streamed past a few vectors.
FEWEST_TOKENS = 8

Dims = tuple[int, ...]


def channels_first(graph: Graph) -> Graph:
    """Rewrite linear layers over tokens as convolutions of one tap, and everything between them to fit.

    Graphs without such layers and without attention stay as they are.
    """
    lifted = _lifted(graph)
    if not any(
        isinstance(node.op, Attention | CachedAttention) or _wants_channels_first(node) for node in lifted.nodes
    ):
        return graph
    graph = lifted
    walk = _Walk(graph, dict(graph.params))
    for name, shape in graph.inputs:
        walk.shapes[name] = shape
        walk.places[name] = (name, _same(shape))
    for node in graph.nodes:
        _RULES.get(type(node.op), _as_it_is)(walk, node)
    outputs = tuple(walk.plain(value) for value in graph.outputs)
    return replace(graph, nodes=tuple(walk.nodes), outputs=outputs, params=walk.params)


def _lifted(graph: Graph) -> Graph:
    """Linear layers see a batch and tokens.

    Those over both as one dimension see two again, as they have beside the layer's reshapes; those with more dimensions
    than a convolution has see one line of tokens.
    """
    made, users, shapes = {node.name: node for node in graph.nodes}, graph.users(), graph.shapes()
    nodes: list[Node] = []
    for node in graph.nodes:
        before = [shapes[made[i].inputs[0]] for i in node.inputs if i in made and isinstance(made[i].op, Reshape)]
        after = [user.shape for user in users[node.name] if isinstance(user.op, Reshape)]
        before = [s[:-1] for s in before if s[-1:] == shapes[node.inputs[0]][-1:]]
        after = [s[:-1] for s in after if s[-1:] == node.shape[-1:]]
        lead = next((s for s in (*before, *after) if len(s) > 1), None) if len(node.shape) == 2 else _line(node.shape)
        if lead is not None and isinstance(node.op, Linear):
            x, y = f"{node.name}:apart", f"{node.name}:tokens"
            features = shapes[node.inputs[0]][-1]
            nodes.append(Node(x, Reshape(), node.inputs, (*lead, features), node.layer))
            nodes.append(replace(node, name=y, inputs=(x,), shape=(*lead, node.shape[-1])))
            node = replace(node, op=Reshape(), inputs=(y,))
        nodes.append(node)
    return fold_constants(graph.with_nodes(nodes))


def _line(shape: Shape) -> Shape | None:
    """All tokens as one line, where they have too many dimensions."""
    return (1, prod(shape[:-1])) if len(shape) > 5 else None


def _wants_channels_first(node: Node) -> bool:
    """Whether an operator over the last dimension has tokens enough before it."""
    shape = node.shape
    last = isinstance(node.op, Linear) or (isinstance(node.op, Norm | Embedding) and node.op.dim == len(shape) - 1)
    # The rows of a table are laid behind the first dimension.
    if not last or (isinstance(node.op, Embedding) and (len(shape) != 3 or shape[1] == 1)):
        return False
    return 3 <= len(shape) <= 5 and prod(shape[:-1]) >= FEWEST_TOKENS and 0 not in shape


@dataclass(slots=True)
class _Walk:
    """The new graph in the making. An old value is `places[name]` = (new value, dims): its dimension d is dimension
    `dims[d]` of the new one."""

    graph: Graph
    params: dict[str, Array]
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    places: dict[str, tuple[str, Dims]] = field(default_factory=dict)
    _made: dict[str, Node] = field(default_factory=dict)
    _moved: dict[tuple[str, Op, Shape], str] = field(default_factory=dict)

    def put(self, node: Node, dims: Dims | None = None) -> None:
        """Append a node; the old value of its name is its result, in this order of dimensions."""
        self._append(node)
        self.places[node.name] = (node.name, _same(node.shape) if dims is None else dims)

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
        if dims == _same(dims):
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
            stem = f"{name}:moved"
            taken = {**self.shapes, **self.graph.shapes()}
            free = next(n for i in range(len(taken) + 1) if (n := f"{stem}.{i}") not in taken)
            layer = self._made[name].layer if name in self._made else ""
            self._append(Node(free, op, (name,), shape, layer))
            self._moved[key] = free
        return self._moved[key]

    def _append(self, node: Node) -> None:
        self.nodes.append(node)
        self._made[node.name] = node
        self.shapes[node.name] = node.shape


def _as_it_is(walk: _Walk, node: Node) -> None:
    walk.put(replace(node, inputs=tuple(walk.plain(i) for i in node.inputs)))


def _permute(walk: _Walk, node: Node) -> None:
    assert isinstance(node.op, Permute)
    name, order = walk.places[node.inputs[0]]
    walk.places[node.name] = (name, tuple(order[d] for d in node.op.dims))


def _reshape(walk: _Walk, node: Node) -> None:
    name, order = walk.places[node.inputs[0]]
    moved = reshaped(walk.shapes[name], order, node.shape)
    if moved is None:
        plain = walk.plain(node.inputs[0])
        walk.places[node.name] = (walk.reshape(plain, node.shape), _same(node.shape))
    else:
        walk.places[node.name] = (walk.reshape(name, moved[0]), moved[1])


def _elementwise(walk: _Walk, node: Node) -> None:
    """In the order of the first operand that has the result's shape and is not as it was."""
    shapes = walk.graph.shapes()
    whole = [walk.places[i][1] for i in node.inputs if shapes[i] == node.shape]
    order = next((dims for dims in whole if dims != _same(dims)), _same(node.shape))
    back = _inverse(order)
    if order == _same(order):
        _as_it_is(walk, node)
        return
    inputs = tuple(walk.widened(i, len(order), back) for i in node.inputs)
    walk.put(replace(node, inputs=inputs, shape=tuple(node.shape[d] for d in back)), order)


def _linear(walk: _Walk, node: Node) -> None:
    op = node.op
    assert isinstance(op, Linear)
    if not _wants_channels_first(node):
        _as_it_is(walk, node)
        return
    x = walk.permuted(node.inputs[0], _to_front(node.shape))
    rank = len(node.shape) - 2
    weight = walk.params[op.weight]
    key = new_key(f"{op.weight}:taps", walk.params)
    walk.params[key] = weight.reshape(*weight.shape, *[1] * rank)
    ones, zeros = (1,) * rank, (0,) * 2 * rank
    conv = Conv(key, op.bias, op.scale, ones, zeros, ones, activation=op.activation)
    _put_first(walk, node, conv, x)


def _norm(walk: _Walk, node: Node) -> None:
    op = node.op
    assert isinstance(op, Norm)
    name, order = walk.places[node.inputs[0]]
    if order == _same(order) and _wants_channels_first(node):
        _put_first(walk, node, replace(op, dim=1), walk.permuted(node.inputs[0], _to_front(node.shape)))
    else:
        walk.put(replace(node, op=replace(op, dim=order[op.dim]), inputs=(name,), shape=walk.shapes[name]), order)


def _embedding(walk: _Walk, node: Node) -> None:
    assert isinstance(node.op, Embedding)
    if _wants_channels_first(node):
        _put_first(walk, node, replace(node.op, dim=1), walk.plain(node.inputs[0]))
    else:
        _as_it_is(walk, node)


def _put_first(walk: _Walk, node: Node, op: Op, x: str) -> None:
    front = _to_front(node.shape)
    shape = tuple(node.shape[d] for d in front)
    walk.put(replace(node, op=op, inputs=(x,), shape=shape), _inverse(front))


def _softmax(walk: _Walk, node: Node) -> None:
    assert isinstance(node.op, Softmax)
    name, order = walk.places[node.inputs[0]]
    walk.put(replace(node, op=Softmax(order[node.op.dim]), inputs=(name,), shape=walk.shapes[name]), order)


def _mean(walk: _Walk, node: Node) -> None:
    assert isinstance(node.op, Mean)
    name, order = walk.places[node.inputs[0]]
    over = tuple(sorted(order[d] for d in node.op.dims))
    source = walk.shapes[name]
    if len(node.shape) == len(source):
        shape = tuple(1 if d in over else size for d, size in enumerate(source))
        walk.put(replace(node, op=Mean(over), inputs=(name,), shape=shape), order)
        return
    left = [d for d in range(len(source)) if d not in over]
    dims = tuple(left.index(order[d]) for d in range(len(source)) if d not in node.op.dims)
    shape = tuple(source[d] for d in left)
    walk.put(replace(node, op=Mean(over), inputs=(name,), shape=shape), dims)


def _concat(walk: _Walk, node: Node) -> None:
    assert isinstance(node.op, Concat)
    orders = [walk.places[i][1] for i in node.inputs]
    order = next((dims for dims in orders if dims != _same(dims)), _same(node.shape))
    back = _inverse(order)
    inputs = tuple(walk.permuted(i, back) for i in node.inputs)
    shape = tuple(node.shape[d] for d in back)
    walk.put(replace(node, op=Concat(order[node.op.dim]), inputs=inputs, shape=shape), order)


def _cut(walk: _Walk, node: Node) -> None:
    """Slices and pads say something of every dimension."""
    op = node.op
    assert isinstance(op, Slice | Pad)
    name, order = walk.places[node.inputs[0]]
    back = _inverse(order)
    if isinstance(op, Slice):
        op = Slice(tuple(op.start[d] for d in back), tuple(op.step[d] for d in back))
    else:
        op = replace(op, before=tuple(op.before[d] for d in back))
    walk.put(replace(node, op=op, inputs=(name,), shape=tuple(node.shape[d] for d in back)), order)


_RULES: dict[type, Callable[[_Walk, Node], None]] = {
    **dict.fromkeys((Activate, Add, Mul, Compare, Where), _elementwise),
    **dict.fromkeys((Slice, Pad), _cut),
    Permute: _permute,
    Reshape: _reshape,
    Linear: _linear,
    Norm: _norm,
    Embedding: _embedding,
    Softmax: _softmax,
    Mean: _mean,
    Concat: _concat,
}


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


def _to_front(shape: Shape) -> Dims:
    """The last dimension becomes dimension 1, behind one that stands for the batch.

    That is the first, unless all tokens are there, as recurrent layers have them.
    """
    last, batch = len(shape) - 1, 0 if prod(shape[1:-1]) > 1 else 1
    return (batch, last, *(d for d in range(last) if d != batch))


def _same(dims: Sequence[int]) -> Dims:
    return tuple(range(len(dims)))


def _inverse(dims: Dims) -> Dims:
    return tuple(int(d) for d in np.argsort(dims))
