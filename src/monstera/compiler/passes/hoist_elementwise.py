"""Let what acts on every element act before channels become pixels, where a convolution can take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from monstera.compiler.ir import Activate, Affine, DepthToSpace, Graph, Node, Shape, Slice
from monstera.compiler.ir.interpreter import Array
from monstera.compiler.passes.rewrite import new_key, private_values


def hoist_elementwise(graph: Graph) -> Graph:
    """Move activations and affine maps from behind `DepthToSpace` (and a cut of it) to its input.

    The operators of a chain move down by one place and the names of the places stay, so nobody else notices. Nothing
    moves where another reader sees a value in between.
    """
    private, shapes, params = private_values(graph), graph.shapes(), dict(graph.params)
    nodes = {node.name: node for node in graph.nodes}
    for node in graph.nodes:
        movers = _movers(node, nodes, private, shapes)
        if not movers:
            continue
        first, source = movers[0], movers[0].inputs[0]
        places = [*(m.name for m in movers), node.name]
        nodes[first.name] = replace(
            _before(node, first, params), name=first.name, inputs=(source,), shape=shapes[source]
        )
        for mover, above, place in zip(movers, places, places[1:], strict=False):
            nodes[place] = replace(mover, name=place, inputs=(above,))
        shapes |= {place: nodes[place].shape for place in places}
    return replace(graph, nodes=tuple(nodes.values()), params=params)


def _movers(node: Node, nodes: Mapping[str, Node], private: set[str], shapes: Mapping[str, Shape]) -> list[Node]:
    """The `DepthToSpace` that a node reads, and a cut of spatial dimensions between them; empty if it is otherwise."""
    if not isinstance(node.op, Activate | Affine):
        return []
    above = nodes.get(node.inputs[0])
    chain: list[Node] = []
    if above is not None and isinstance(above.op, Slice) and shapes[above.inputs[0]][:2] == above.shape[:2]:
        chain, above = [above], nodes.get(above.inputs[0])
    if above is None or not isinstance(above.op, DepthToSpace):
        return []
    chain = [above, *chain]
    return chain if all(m.name in private for m in chain) else []


def _before(node: Node, mover: Node, params: dict[str, Array]) -> Node:
    """The node as it acts on the channels that fill the blocks; new parameters are added to `params`."""
    op, blocks = node.op, mover.op
    if not isinstance(op, Affine):
        return node
    assert isinstance(blocks, DepthToSpace)
    keys = []
    for field in (op.scale, op.shift):
        numbers = params[field].reshape(blocks.groups, 1, -1)
        key = new_key(f"{node.name}:{field}:phases", params)
        params[key] = np.repeat(numbers, prod(blocks.block), axis=1).reshape(-1)
        keys.append(key)
    return replace(node, op=replace(op, scale=keys[0], shift=keys[1]))
