"""Compute equal things once: what every layer of a model makes anew of the same mask, for instance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from monstera.compiler.ir import Constant, Graph, Node, Op, Shape
from monstera.compiler.passes.rewrite import rename, resolve

# Constants up to so many numbers are compared; larger ones are rarely equal.
_SMALL = 64


def merge_equal(graph: Graph) -> Graph:
    """Let one node stand for all that apply the same operator to the same values."""
    first: dict[tuple[Op | bytes, tuple[str, ...], Shape], str] = {}
    stands_for: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(resolve(i, stands_for) for i in node.inputs)
        key = (_identity(node.op, graph), inputs, node.shape)
        if first.setdefault(key, node.name) == node.name:
            nodes.append(replace(node, inputs=inputs))
        else:
            stands_for[node.name] = first[key]
    return rename(graph, nodes, stands_for)


def _identity(op: Op, graph: Graph) -> Op | bytes:
    """The operator, or the numbers of a small constant."""
    if isinstance(op, Constant) and graph.params[op.value].size <= _SMALL:
        return np.ascontiguousarray(graph.params[op.value]).tobytes()
    return op
