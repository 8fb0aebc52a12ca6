"""Let linear layers over many tokens run over planes: a token is a pixel, a feature is a channel."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from monstera.compiler.ir import Conv, Graph, Linear, Node, Permute, Reshape
from monstera.compiler.ir.interpreter import Array
from monstera.compiler.passes.fuse_activation import fuse_activation
from monstera.compiler.passes.rewrite import new_key

# A vector of tokens: from here on planes cost less than streaming the weights once for every four tokens, by the prices
# of both kernels, whatever the holes.
MANY = 16


def linear_over_tokens(graph: Graph) -> Graph:
    """Turn linear layers over at least `MANY` tokens, in three and more dimensions, into convolutions over a line.

    The line is turned from tokens to planes of features before, and back behind; where two such layers follow each
    other both turns cancel.
    """
    # An activation comes along, as it would no longer stand next to its producer.
    graph = fuse_activation(graph, _has_many)
    params = dict(graph.params)
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += _over_planes(node, params) if _has_many(node) else [node]
    return replace(graph, nodes=tuple(nodes), params=params)


def _has_many(node: Node) -> bool:
    return isinstance(node.op, Linear) and len(node.shape) > 2 and prod(node.shape[:-1]) >= MANY


def _over_planes(node: Node, params: dict[str, Array]) -> list[Node]:
    op = node.op
    assert isinstance(op, Linear)
    tokens, (rows, columns) = prod(node.shape[:-1]), params[op.weight].shape
    weight = new_key(f"{node.name}:weight:tokens", params)
    params[weight] = params[op.weight].reshape(rows, columns, 1)
    product = Conv(weight, op.bias, op.scale, (1,), (0, 0), (1,), activation=op.activation)
    line, planes, sums, back = (f"{node.name}:{what}" for what in ("line", "planes", "sums", "back"))
    return [
        replace(node, name=line, op=Reshape(), shape=(1, tokens, columns)),
        replace(node, name=planes, op=Permute((0, 2, 1)), inputs=(line,), shape=(1, columns, tokens)),
        replace(node, name=sums, op=product, inputs=(planes,), shape=(1, rows, tokens)),
        replace(node, name=back, op=Permute((0, 2, 1)), inputs=(sums,), shape=(1, tokens, rows)),
        replace(node, op=Reshape(), inputs=(back,)),
    ]
