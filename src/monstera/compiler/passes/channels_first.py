"""Let networks over tokens compute channels first, so that a linear layer is a convolution over planes.

Models keep features last: `[batch, tokens, features]`. Here each value of the new graph stands for an old one with its
dimensions in another order, which is noted and not computed. Linear layers, norms and look-ups ask for features in
dimension 1; elementwise operators, cuts and joins take what they are given; attention is defined channels first. The
permutations that are left are those between the network and its caller, mostly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

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
from monstera.compiler.passes.fold_constants import fold_constants
from monstera.compiler.passes.orders import Dims, Walk, inverse, reshaped, same
from monstera.compiler.passes.rewrite import new_key

# With fewer tokens in all a linear layer is faster as it is: its weights are streamed past a few vectors.
FEWEST_TOKENS = 8


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
    walk = Walk(graph)
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


def _as_it_is(walk: Walk, node: Node) -> None:
    walk.put(replace(node, inputs=tuple(walk.plain(i) for i in node.inputs)))


def _permute(walk: Walk, node: Node) -> None:
    assert isinstance(node.op, Permute)
    name, order = walk.places[node.inputs[0]]
    walk.places[node.name] = (name, tuple(order[d] for d in node.op.dims))


def _reshape(walk: Walk, node: Node) -> None:
    name, order = walk.places[node.inputs[0]]
    moved = reshaped(walk.shapes[name], order, node.shape)
    if moved is None:
        plain = walk.plain(node.inputs[0])
        walk.places[node.name] = (walk.reshape(plain, node.shape), same(node.shape))
    else:
        walk.places[node.name] = (walk.reshape(name, moved[0]), moved[1])


def _elementwise(walk: Walk, node: Node) -> None:
    """In the order of the first operand that has the result's shape and is not as it was."""
    whole = [walk.places[i][1] for i in node.inputs if walk.old_shapes[i] == node.shape]
    order = next((dims for dims in whole if dims != same(dims)), same(node.shape))
    back = inverse(order)
    if order == same(order):
        _as_it_is(walk, node)
        return
    inputs = tuple(walk.widened(i, len(order), back) for i in node.inputs)
    walk.put(replace(node, inputs=inputs, shape=tuple(node.shape[d] for d in back)), order)


def _linear(walk: Walk, node: Node) -> None:
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


def _norm(walk: Walk, node: Node) -> None:
    op = node.op
    assert isinstance(op, Norm)
    name, order = walk.places[node.inputs[0]]
    if order == same(order) and _wants_channels_first(node):
        _put_first(walk, node, replace(op, dim=1), walk.permuted(node.inputs[0], _to_front(node.shape)))
    else:
        walk.put(replace(node, op=replace(op, dim=order[op.dim]), inputs=(name,), shape=walk.shapes[name]), order)


def _embedding(walk: Walk, node: Node) -> None:
    assert isinstance(node.op, Embedding)
    if _wants_channels_first(node):
        _put_first(walk, node, replace(node.op, dim=1), walk.plain(node.inputs[0]))
    else:
        _as_it_is(walk, node)


def _put_first(walk: Walk, node: Node, op: Op, x: str) -> None:
    front = _to_front(node.shape)
    shape = tuple(node.shape[d] for d in front)
    walk.put(replace(node, op=op, inputs=(x,), shape=shape), inverse(front))


def _softmax(walk: Walk, node: Node) -> None:
    assert isinstance(node.op, Softmax)
    name, order = walk.places[node.inputs[0]]
    walk.put(replace(node, op=Softmax(order[node.op.dim]), inputs=(name,), shape=walk.shapes[name]), order)


def _mean(walk: Walk, node: Node) -> None:
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


def _concat(walk: Walk, node: Node) -> None:
    assert isinstance(node.op, Concat)
    orders = [walk.places[i][1] for i in node.inputs]
    order = next((dims for dims in orders if dims != same(dims)), same(node.shape))
    back = inverse(order)
    inputs = tuple(walk.permuted(i, back) for i in node.inputs)
    shape = tuple(node.shape[d] for d in back)
    walk.put(replace(node, op=Concat(order[node.op.dim]), inputs=inputs, shape=shape), order)


def _cut(walk: Walk, node: Node) -> None:
    """Slices and pads say something of every dimension."""
    op = node.op
    assert isinstance(op, Slice | Pad)
    name, order = walk.places[node.inputs[0]]
    back = inverse(order)
    if isinstance(op, Slice):
        op = Slice(tuple(op.start[d] for d in back), tuple(op.step[d] for d in back))
    else:
        op = replace(op, before=tuple(op.before[d] for d in back))
    walk.put(replace(node, op=op, inputs=(name,), shape=tuple(node.shape[d] for d in back)), order)


_RULES: dict[type, Callable[[Walk, Node], None]] = {
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


def _to_front(shape: Shape) -> Dims:
    """The last dimension becomes dimension 1, behind one that stands for the batch.

    That is the first, unless all tokens are there, as recurrent layers have them.
    """
    last, batch = len(shape) - 1, 0 if prod(shape[1:-1]) > 1 else 1
    return (batch, last, *(d for d in range(last) if d != batch))
