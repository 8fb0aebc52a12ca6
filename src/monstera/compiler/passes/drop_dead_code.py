"""Remove what no output needs."""

from __future__ import annotations

from dataclasses import replace

from monstera.compiler.ir import Graph, param_keys


def drop_dead_code(graph: Graph) -> Graph:
    """Remove nodes that no output depends on, and parameters that no node names. Inputs stay."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if node.name in needed:
            kept.append(node)
            needed.update(node.inputs)
    keys = {key for node in kept for key in param_keys(node.op)}
    return replace(graph, nodes=tuple(reversed(kept)), params={k: v for k, v in graph.params.items() if k in keys})
