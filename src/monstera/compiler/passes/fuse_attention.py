"""Find attention that a model spells out, softmax(q k + mask) v, and keys that it repeats for several heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from monstera.compiler.ir import (
    Add,
    Attention,
    Compare,
    Constant,
    Graph,
    MatMul,
    Mul,
    Node,
    Op,
    Permute,
    Reshape,
    Shape,
    Softmax,
    Where,
)
from monstera.compiler.passes.rewrite import private_values


def fuse_attention(graph: Graph) -> Graph:
    """Turn products around a softmax over keys into `Attention`, and let heads share keys instead of copies of them.

    Operands are `[batch, heads, tokens, features]`. What is added to the scores becomes the mask. A query that sees no
    key gives zeros instead of NaN.
    """
    return _shared(_fused(graph))


@dataclass(frozen=True, slots=True)
class _Scores:
    """`q @ k * scale + masks`, as found before a softmax."""

    q: str
    k: str
    scale: float
    masks: tuple[str, ...]


def _fused(graph: Graph) -> Graph:
    private, shapes, users = private_values(graph), graph.shapes(), graph.users()
    made = {node.name: node for node in graph.nodes}
    nodes: list[Node] = []
    for node in graph.nodes:
        weights = made.get(node.inputs[0]) if isinstance(node.op, MatMul) else None
        scores = None
        if weights is not None and weights.name in private:
            weights = _unguarded(weights, made, users, graph.params)
            scores = _scores(weights, made, private, graph.params)
        if scores is None or not _fits(scores, node, shapes):
            nodes.append(node)
        else:
            nodes += _attention(node, scores, shapes)
    return graph.with_nodes(nodes)


def _unguarded(
    weights: Node, made: Mapping[str, Node], users: Mapping[str, list[Node]], params: Mapping[str, np.ndarray]
) -> Node:
    """The softmax whose NaN become zeros, as exporters write it for queries that see no key; else the node itself."""
    if not isinstance(weights.op, Where):
        return weights
    condition, zero, softmax = (made.get(i) for i in weights.inputs)
    parts = [made.get(i) for i in condition.inputs] if condition is not None else []
    if zero is None or softmax is None or len(parts) != 2 or not _is_zero(zero, params):
        return weights
    same, other = parts
    equal = Compare("eq")
    asks = condition is not None and condition.op == equal and other is not None and _is_zero(other, params)
    if not asks or same is None or same.op != equal or same.inputs != (softmax.name,) * 2:
        return weights
    alone = {user.name for user in users[softmax.name]} == {same.name, weights.name}
    return softmax if alone and softmax.shape == weights.shape else weights


def _is_zero(node: Node, params: Mapping[str, np.ndarray]) -> bool:
    return isinstance(node.op, Constant) and not params[node.op.value].any()


def _scores(
    softmax: Node, made: Mapping[str, Node], private: set[str], params: Mapping[str, np.ndarray]
) -> _Scores | None:
    if not isinstance(softmax.op, Softmax) or softmax.op.dim != len(softmax.shape) - 1:
        return None
    name, scale, masks = softmax.inputs[0], 1.0, []
    while name in private and (node := made.get(name)) is not None and getattr(node.op, "activation", None) is None:
        if isinstance(node.op, MatMul):
            (q, of_q), (k, of_k) = (_unscaled(i, made, params) for i in node.inputs)
            return _Scores(q, k, scale * of_q * of_k, tuple(masks))
        if isinstance(node.op, Add) and scale == 1.0:
            leading = [i for i in node.inputs if _leads_to_product(i, made, private)]
            if len(leading) != 1:
                return None
            name = leading[0]
            masks.append(node.inputs[node.inputs.index(name) ^ 1])
        elif (below := _unscaled(name, made, params))[0] != name:
            name, scale = below[0], scale * below[1]
        else:
            return None
    return None


def _unscaled(name: str, made: Mapping[str, Node], params: Mapping[str, np.ndarray]) -> tuple[str, float]:
    """What is multiplied by a known number, and the number; the value itself and 1 if it is nothing such."""
    node = made.get(name)
    if node is None or not isinstance(node.op, Mul) or node.op.activation is not None:
        return name, 1.0
    known = [i for i in node.inputs if i in made and isinstance(made[i].op, Constant)]
    if len(known) != 1 or params[_key(made[known[0]])].size != 1:
        return name, 1.0
    return node.inputs[node.inputs.index(known[0]) ^ 1], float(params[_key(made[known[0]])].reshape(()))


def _leads_to_product(name: str, made: Mapping[str, Node], private: set[str]) -> bool:
    while name in private and (node := made.get(name)) is not None and isinstance(node.op, Add | Mul):
        name = next((i for i in node.inputs if i in made and not isinstance(made[i].op, Constant)), "")
    return name in private and name in made and isinstance(made[name].op, MatMul)


def _key(node: Node) -> str:
    assert isinstance(node.op, Constant)
    return node.op.value


def _fits(scores: _Scores, node: Node, shapes: Mapping[str, Shape]) -> bool:
    """Whether all operands have the same batch and heads, and masks have no more dimensions.

    Masks may broadcast the scores, too: then there are more queries than in q, or more keys than in k.
    """
    operands = [shapes[name] for name in (scores.q, scores.k, node.inputs[1])]
    if len(node.shape) != 4 or any(len(shape) != 4 or shape[:2] != node.shape[:2] for shape in operands):
        return False
    q, k, v = operands
    return q[2] == node.shape[2] and k[3] == v[2] and all(len(shapes[m]) <= 4 for m in scores.masks)


def _attention(node: Node, scores: _Scores, shapes: Mapping[str, Shape]) -> list[Node]:
    """The nodes that take the place of the last product; the last of them bears its name."""
    (n, heads, queries, width), (_, _, _, keys), (_, _, _, values) = (
        shapes[name] for name in (scores.q, scores.k, node.inputs[1])
    )
    nodes: list[Node] = []

    def add(suffix: str, op: Op, inputs: tuple[str, ...], shape: Shape) -> str:
        nodes.append(replace(node, name=f"{node.name}:{suffix}", op=op, inputs=inputs, shape=shape))
        return nodes[-1].name

    turn = Permute((0, 1, 3, 2))
    q = add("q", turn, (scores.q,), (n, heads, width, queries))
    q = add("queries", Reshape(), (q,), (n, heads * width, queries))
    k = add("keys", Reshape(), (scores.k,), (n, heads * width, keys))
    v = add("v", turn, (node.inputs[1],), (n, heads, values, keys))
    v = add("values", Reshape(), (v,), (n, heads * values, keys))
    masks = list(scores.masks)
    while len(masks) > 1:
        a, b = masks.pop(), masks.pop()
        masks.append(add(f"sum{len(masks)}", Add(), (a, b), np.broadcast_shapes(shapes[a], shapes[b])))
        shapes = {**shapes, masks[-1]: nodes[-1].shape}
    for mask in masks:
        shape = (1,) * (4 - len(shapes[mask])) + shapes[mask]
        wide = add("wide", Reshape(), (mask,), shape)
        masks = [add("mask", turn, (wide,), (*shape[:2], shape[3], shape[2]))]
    op = Attention(scores.scale, (width,) * heads, (values,) * heads)
    y = add("attention", op, (q, k, v, *masks), (n, heads * values, queries))
    y = add("heads", Reshape(), (y,), (n, heads, values, queries))
    return [*nodes, replace(node, op=turn, inputs=(y,))]


def _shared(graph: Graph) -> Graph:
    """Let `Attention` read keys and values before they are repeated."""
    made, shapes = {node.name: node for node in graph.nodes}, graph.shapes()
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node.op, Attention) and node.op.repeats == 1:
            sources = [_repeated(made.get(i), made, shapes, graph.params) for i in node.inputs[1:3]]
            if sources[0] and sources[1] and _serve(sources, node.op, shapes):
                repeats = len(node.op.qk) // shapes[sources[0]][1]
                op = replace(node.op, qk=node.op.qk[::repeats], v=node.op.v[::repeats], repeats=repeats)
                operands = [_once(node, source, i, shapes) for i, source in enumerate(map(str, sources))]
                nodes += [made_anew for operand in operands for made_anew in operand]
                inputs = (node.inputs[0], *(operand[-1].name for operand in operands), *node.inputs[3:])
                node = replace(node, op=op, inputs=inputs)
        nodes.append(node)
    return graph.with_nodes(nodes)


def _repeated(
    node: Node | None, made: Mapping[str, Node], shapes: Mapping[str, Shape], params: Mapping[str, np.ndarray]
) -> str | None:
    """The value `[n, groups, 1, tokens, features]` that is repeated along its third dimension before it gets here.

    Copies become heads `[n, heads, tokens, features]`, these `[n, heads, features, tokens]`, and then channels.
    """
    steps: list[Node] = []
    for kind in (Reshape, Permute, Reshape):
        if node is None or not isinstance(node.op, kind):
            return None
        steps.append(node)
        node = made.get(node.inputs[0])
    if node is None or node.op != Mul() or len(node.shape) != 5 or not _become_channels(node.shape, *steps):
        return None
    for source, ones in (node.inputs, node.inputs[::-1]):
        single = shapes[source]
        grown = len(single) == 5 and single[2] == 1 and (*single[:2], *single[3:]) == (*node.shape[:2], *node.shape[3:])
        known = ones in made and isinstance(made[ones].op, Constant)
        if grown and known and bool((params[_key(made[ones])] == 1).all()):
            return source
    return None


def _become_channels(copies: Shape, channels: Node, turned: Node, joined: Node) -> bool:
    n, groups, repeats, tokens, width = copies
    heads = groups * repeats
    as_heads = joined.shape == (n, heads, tokens, width) and turned.op == Permute((0, 1, 3, 2))
    return as_heads and channels.shape == (n, heads * width, tokens)


def _serve(sources: Sequence[str | None], op: Attention, shapes: Mapping[str, Shape]) -> bool:
    """Whether keys and values come in as many groups, each as wide as the heads that are to share it."""
    (_, of_k, *_, qk), (_, of_v, *_, v) = (shapes[str(source)] for source in sources)
    heads = len(op.qk)
    return of_k == of_v and heads % of_k == 0 and (op.qk, op.v) == ((qk,) * heads, (v,) * heads)


def _once(node: Node, source: str, index: int, shapes: Mapping[str, Shape]) -> list[Node]:
    """Channels first: `[n, groups * features, tokens]`."""
    n, groups, _, tokens, width = shapes[source]
    steps = (
        (Reshape(), (n, groups, tokens, width)),
        (Permute((0, 1, 3, 2)), (n, groups, width, tokens)),
        (Reshape(), (n, groups * width, tokens)),
    )
    nodes: list[Node] = []
    for i, (op, shape) in enumerate(steps):
        above = nodes[-1].name if nodes else source
        nodes.append(replace(node, name=f"{node.name}:once{index}{i}", op=op, inputs=(above,), shape=shape))
    return nodes
