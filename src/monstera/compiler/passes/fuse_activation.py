"""Let the operator that computes a value apply its activation."""

from __future__ import annotations

from dataclasses import replace

from monstera.compiler.ir import Activate, Add, Affine, Conv, Graph, Linear, Mul
from monstera.compiler.passes.rewrite import private_values, rename, resolve


def fuse_activation(graph: Graph) -> Graph:
    """Move an activation into its producer where nobody else reads the value in between."""
    private = private_values(graph)
    nodes = {node.name: node for node in graph.nodes}
    stands_for: dict[str, str] = {}
    for node in graph.nodes:
        if not isinstance(node.op, Activate) or node.inputs[0] not in private:
            continue
        producer = nodes.get(resolve(node.inputs[0], stands_for))
        if producer is None or not isinstance(producer.op, Conv | Linear | Affine | Add | Mul):
            continue
        if producer.op.activation is None:
            nodes[producer.name] = replace(producer, op=replace(producer.op, activation=node.op.activation))
            stands_for[node.name] = nodes.pop(node.name).inputs[0]
    return rename(graph, nodes.values(), stands_for)
