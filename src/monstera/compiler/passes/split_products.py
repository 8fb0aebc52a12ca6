"""Compute parts of a product apart where they are read apart: queries, keys and values of one matrix."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from monstera.compiler.ir import Conv, Graph, Node, Slice
from monstera.compiler.ir.interpreter import Array
from monstera.compiler.passes.rewrite import new_key


def split_products(graph: Graph) -> Graph:
    """Replace a convolution of which only slices along channels are read by one convolution a slice.

    Slices that overlap leave it whole: it would compute some channels twice.
    """
    made, users, params = {node.name: node for node in graph.nodes}, graph.users(), dict(graph.params)
    nodes: list[Node] = []
    for node in graph.nodes:
        source = made.get(node.inputs[0]) if isinstance(node.op, Slice) else None
        if source is not None and source.name not in graph.outputs and _can_split(source, users[source.name]):
            node = _part(source, node, params)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), params=params)


def _can_split(node: Node, users: list[Node]) -> bool:
    op = node.op
    if not isinstance(op, Conv) or op.groups != 1 or op.activation is not None or len(node.inputs) > 1:
        return False
    if not all(isinstance(user.op, Slice) and _cuts_channels(user, node) for user in users):
        return False
    ends = sorted((_first(user), _first(user) + user.shape[1]) for user in users)
    return all(end <= start for (_, end), (start, _) in pairwise(ends))


def _cuts_channels(cut: Node, source: Node) -> bool:
    assert isinstance(cut.op, Slice)
    return cut.op.step[1] == 1 and (cut.shape[0], *cut.shape[2:]) == (source.shape[0], *source.shape[2:])


def _first(cut: Node) -> int:
    """The first channel of a slice."""
    assert isinstance(cut.op, Slice)
    return cut.op.start[1]


def _part(conv: Node, cut: Node, params: dict[str, Array]) -> Node:
    """The convolution with the filters of the slice; their parameters are added to `params`."""
    assert isinstance(conv.op, Conv)
    first = _first(cut)
    keys = {}
    for field in ("weight", "bias", "scale"):
        key = getattr(conv.op, field)
        if key is not None:
            keys[field] = new_key(f"{key}[{first}:{first + cut.shape[1]}]", params)
            params[keys[field]] = params[key][first : first + cut.shape[1]]
    return replace(cut, op=replace(conv.op, **keys), inputs=conv.inputs, layer=conv.layer)
