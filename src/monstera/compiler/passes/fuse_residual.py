"""Let a convolution add the other branch of a residual block while it stores its result."""

from __future__ import annotations

from dataclasses import replace

from monstera.compiler.ir import Add, Conv, Graph, Node, Shape
from monstera.compiler.passes.rewrite import private_values, rename, resolve


def fuse_residual(graph: Graph) -> Graph:
    """Turn `Add(conv(x), other)` into `conv(x, other)`, where only the addition reads the convolution.

    The convolution moves to the addition's place, where `other` exists for certain. If both operands are such
    convolutions, the later one takes the earlier one's value.
    """
    private, shapes = private_values(graph), graph.shapes()
    nodes = {node.name: node for node in graph.nodes}
    order = {name: position for position, name in enumerate(nodes)}
    stands_for: dict[str, str] = {}
    for node in graph.nodes:
        if not isinstance(node.op, Add):
            continue
        convs = [i for i in node.inputs if i in private and _can_take(nodes.get(i), node.shape)]
        if not convs or any(shapes[i] != node.shape for i in node.inputs):
            continue
        chosen = max(convs, key=order.__getitem__)
        other = resolve(node.inputs[node.inputs.index(chosen) ^ 1], stands_for)
        nodes[node.name] = _joined(nodes.pop(chosen), other, node)
        stands_for[node.name] = chosen
    return rename(graph, nodes.values(), stands_for)


def _can_take(node: Node | None, shape: Shape) -> bool:
    """Whether a node is a convolution whose epilogue is still free."""
    if node is None or not isinstance(node.op, Conv):
        return False
    return node.op.activation is None and len(node.inputs) == 1 and node.shape == shape


def _joined(conv: Node, other: str, add: Node) -> Node:
    assert isinstance(conv.op, Conv)
    assert isinstance(add.op, Add)
    return replace(conv, op=replace(conv.op, activation=add.op.activation), inputs=(*conv.inputs, other))
