"""Let a convolution pad by itself (TensorFlow's "SAME" arrives as an explicit, asymmetric pad)."""

from __future__ import annotations

from dataclasses import replace

from monstera.compiler.ir import Conv, Graph, Node, Pad, Shape


def fuse_padding(graph: Graph) -> Graph:
    """Move zero padding of spatial dimensions into the convolutions that read it."""
    shapes = graph.shapes()
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        source = nodes.get(node.inputs[0]) if isinstance(node.op, Conv) else None
        fused = _fused(node, source, shapes) if source is not None else None
        nodes[node.name] = fused or node
    return graph.with_nodes(nodes.values())


def _fused(conv: Node, pad: Node, shapes: dict[str, Shape]) -> Node | None:
    if not isinstance(pad.op, Pad) or not isinstance(conv.op, Conv) or pad.op.value != 0:
        return None
    before = pad.op.before
    after = [m - n - b for m, n, b in zip(pad.shape, shapes[pad.inputs[0]], before, strict=True)]
    if any((*before[:2], *after[:2])) or min(*before, *after) < 0:
        return None
    padding = tuple(p + q for p, q in zip(conv.op.padding, (*before[2:], *after[2:]), strict=True))
    return replace(conv, op=replace(conv.op, padding=padding), inputs=(pad.inputs[0], *conv.inputs[1:]))
