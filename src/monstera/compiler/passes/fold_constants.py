"""Compute what is known, and remove what moves nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from monstera.compiler.ir import (
    Activate,
    Add,
    Attention,
    Compare,
    Concat,
    Constant,
    Graph,
    Mul,
    Node,
    Pad,
    Permute,
    Reshape,
    Shape,
    Slice,
    Where,
    evaluate,
)
from monstera.compiler.passes.rewrite import new_key, rename, resolve


def fold_constants(graph: Graph) -> Graph:
    """Evaluate nodes whose inputs are constants; merge reshapes, permutations and slices; remove those of nothing.

    Also removes the multiplication by ones that stands for `expand`, where its readers broadcast by themselves.
    """
    graph = _evaluated(graph)
    graph = _without_expansions(graph)
    graph = _small_masks(graph)
    shapes = graph.shapes()
    nodes: dict[str, Node] = {}
    stands_for: dict[str, str] = {}
    for node in graph.nodes:
        node = replace(node, inputs=tuple(resolve(i, stands_for) for i in node.inputs))
        if node.inputs:
            node = _as_reshape(_merged(node, nodes.get(node.inputs[0])), shapes)
            node = _merged(node, nodes.get(node.inputs[0]))
        if _moves_nothing(node, shapes):
            stands_for[node.name] = node.inputs[0]
        else:
            nodes[node.name] = node
    return rename(graph, nodes.values(), stands_for)


def _evaluated(graph: Graph) -> Graph:
    params = dict(graph.params)
    constants: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        if node.inputs and all(i in constants for i in node.inputs):
            value = evaluate(node, [params[constants[i]].astype(np.float64) for i in node.inputs], params)
            key = new_key(f"{node.name}:folded", params)
            params[key] = value.astype(np.float32)
            node = replace(node, op=Constant(key), inputs=())
        if isinstance(node.op, Constant):
            constants[node.name] = node.op.value
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), params=params)


def _without_expansions(graph: Graph) -> Graph:
    """Let what broadcasts by itself read the small operand of a multiplication by ones, if its own shape stays."""
    shapes = graph.shapes()
    known = {n.name: graph.params[n.op.value] for n in graph.nodes if isinstance(n.op, Constant)}
    small = {n.name: source for n in graph.nodes if (source := _expanded(n, known))}

    def shrink(node: Node) -> Node:
        if not isinstance(node.op, Add | Mul | Compare | Where) or node.name in small:
            return node
        inputs = tuple(small.get(i, i) for i in node.inputs)
        if np.broadcast_shapes(*[shapes[i] for i in inputs]) != node.shape:
            return node
        return replace(node, inputs=inputs)

    return graph.with_nodes([shrink(node) for node in graph.nodes])


def _small_masks(graph: Graph) -> Graph:
    """Let attention read its mask from before a multiplication by ones: it broadcasts by itself.

    What turns truth values into a mask on the way is done to the small operand as well.
    """
    if not any(isinstance(n.op, Attention) and len(n.inputs) > 3 for n in graph.nodes):
        return graph
    shapes = graph.shapes()
    known = {n.name: graph.params[n.op.value] for n in graph.nodes if isinstance(n.op, Constant)}
    small: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node.op, Attention):
            node = replace(node, inputs=(*node.inputs[:3], *(small.get(i, i) for i in node.inputs[3:])))
        nodes.append(node)
        source = _expanded(node, known)
        if source is not None and len(shapes[source]) == len(node.shape):
            small[node.name] = small.get(source, source)
        elif any(i in small for i in node.inputs) and (less := _on_less(node, small, shapes)) is not None:
            nodes.append(less)
            small[node.name], shapes[less.name] = less.name, less.shape
    return graph.with_nodes(nodes)


def _on_less(node: Node, small: dict[str, str], shapes: dict[str, Shape]) -> Node | None:
    """The node on the small operands, if it gives less that way."""
    inputs = tuple(small.get(i, i) for i in node.inputs)
    if isinstance(node.op, Permute):
        shape = tuple(shapes[inputs[0]][d] for d in node.op.dims)
    elif isinstance(node.op, Activate | Add | Mul | Compare | Where):
        shape = np.broadcast_shapes(*(shapes[i] for i in inputs))
    else:
        return None
    less = replace(node, name=f"{node.name}:small", inputs=inputs, shape=shape)
    return less if shape != node.shape and less.name not in shapes else None


def _expanded(node: Node, known: dict[str, np.ndarray]) -> str | None:
    """What a multiplication by ones multiplies, or None if the node is something else."""
    if not isinstance(node.op, Mul) or node.op.activation is not None:
        return None
    ones = [i for i in node.inputs if i in known and (known[i] == 1).all()]
    return node.inputs[node.inputs.index(ones[0]) ^ 1] if ones else None


def _merged(node: Node, source: Node | None) -> Node:
    """One node for two reshapes, permutations or slices in a row."""
    if source is None:
        return node
    if isinstance(node.op, Reshape) and isinstance(source.op, Reshape):
        return replace(node, inputs=source.inputs)
    if isinstance(node.op, Permute) and isinstance(source.op, Permute):
        dims = tuple(source.op.dims[d] for d in node.op.dims)
        return replace(node, op=Permute(dims), inputs=source.inputs)
    if isinstance(node.op, Slice) and isinstance(source.op, Slice):
        inner, outer = source.op, node.op
        start = tuple(s + t * d for s, t, d in zip(inner.start, outer.start, inner.step, strict=True))
        step = tuple(d * e for d, e in zip(inner.step, outer.step, strict=True))
        return replace(node, op=Slice(start, step), inputs=source.inputs)
    return node


def _as_reshape(node: Node, shapes: dict[str, Shape]) -> Node:
    """A permutation that only moves dimensions of extent one keeps the order of all elements."""
    if not isinstance(node.op, Permute):
        return node
    moved = [d for d in node.op.dims if shapes[node.inputs[0]][d] > 1]
    return replace(node, op=Reshape()) if moved == sorted(moved) else node


def _moves_nothing(node: Node, shapes: dict[str, Shape]) -> bool:
    if len(node.inputs) != 1 or shapes[node.inputs[0]] != node.shape:
        return False
    op = node.op
    if isinstance(op, Slice):
        # A start or step that matters would have changed the shape.
        return True
    return isinstance(op, Reshape | Concat) or (isinstance(op, Pad) and not any(op.before))
