"""Compute equal things once: what every layer of a model makes anew of the same mask, for instance."""

from __future__ import annotations

from dataclasses import replace

from monstera.compiler.ir import Graph, Node, Op, Shape
from monstera.compiler.passes.rewrite import rename, resolve


def merge_equal(graph: Graph) -> Graph:
    """Let one node stand for all that apply the same operator to the same values."""
    first: dict[tuple[Op, tuple[str, ...], Shape], str] = {}
    stands_for: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(resolve(i, stands_for) for i in node.inputs)
        key = (node.op, inputs, node.shape)
        if first.setdefault(key, node.name) == node.name:
            nodes.append(replace(node, inputs=inputs))
        else:
            stands_for[node.name] = first[key]
    return rename(graph, nodes, stands_for)
