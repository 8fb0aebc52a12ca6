"""Let attention of one query read the keys and values that a caller keeps where they lie, its own beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from monstera.compiler.ir import Attention, CachedAttention, Concat, Graph, Node, Op, Permute, Reshape, Shape, Slice


def fuse_cache(graph: Graph) -> Graph:
    """Turn attention of one query into `CachedAttention` where keys and values are an input of the graph, or a run of
    it, with some of its own behind.

    To join them would copy all keys for each token, and to turn them channels first once more.
    """
    made, shapes = {node.name: node for node in graph.nodes}, graph.shapes()
    nodes: list[Node] = []
    for node in graph.nodes:
        joined = _joined(node, made, shapes) if isinstance(node.op, Attention) else None
        nodes += [node] if joined is None else _cached(node, joined, shapes)
    return graph.with_nodes(nodes)


@dataclass(frozen=True, slots=True)
class _Joined:
    """Keys or values `[n, groups, tokens, width]`: a run of an input of the graph, and behind it another value."""

    source: str
    start: int
    kept: Shape
    own: str


def _joined(node: Node, made: Mapping[str, Node], shapes: Mapping[str, Shape]) -> tuple[_Joined, _Joined] | None:
    op = node.op
    assert isinstance(op, Attention)
    even = len(set(op.qk)) == len(set(op.v)) == 1
    if node.shape[2] != 1 or op.causal or not even:
        return None
    parts = [_parts(name, len(op.qk), made, shapes) for name in node.inputs[1:3]]
    if parts[0] is None or parts[1] is None or parts[0].kept[2] != parts[1].kept[2]:
        return None
    return parts[0], parts[1]


def _parts(name: str, groups: int, made: Mapping[str, Node], shapes: Mapping[str, Shape]) -> _Joined | None:
    """What is joined and turned to `[n, groups * width, tokens]`."""
    n, channels, tokens = shapes[name]
    turned = made.get(_unreshaped(name, made))
    whole = (n, groups, tokens, channels // groups)
    if turned is None or turned.op != Permute((0, 1, 3, 2)) or shapes[turned.inputs[0]] != whole:
        return None
    joint = made.get(_unreshaped(turned.inputs[0], made))
    if joint is None or joint.op != Concat(2) or joint.shape != whole or len(joint.inputs) != 2:
        return None
    kept, own = joint.inputs
    run = _run_of_input(kept, made, shapes)
    return None if run is None else _Joined(*run, shapes[kept], own)


def _unreshaped(name: str, made: Mapping[str, Node]) -> str:
    while (node := made.get(name)) is not None and isinstance(node.op, Reshape):
        name = node.inputs[0]
    return name


def _run_of_input(name: str, made: Mapping[str, Node], shapes: Mapping[str, Shape]) -> tuple[str, int] | None:
    """The input of the graph that a value is a run of, and where in it the value begins."""
    start = 0
    while (node := made.get(name)) is not None:
        first = 0 if isinstance(node.op, Reshape) else None
        if isinstance(node.op, Slice):
            first = node.op.run_start(shapes[node.inputs[0]], node.shape)
        if first is None:
            return None
        name, start = node.inputs[0], start + first
    return name, start


def _cached(node: Node, joined: tuple[_Joined, _Joined], shapes: Mapping[str, Shape]) -> list[Node]:
    """The nodes that take the place of attention; the last of them bears its name."""
    op, (keys, values) = node.op, joined
    assert isinstance(op, Attention)
    heads, (n, _, _, width) = len(op.heads), keys.kept
    nodes: list[Node] = []

    def add(suffix: str, op: Op, value: str, shape: Shape) -> str:
        nodes.append(replace(node, name=f"{node.name}:{suffix}", op=op, inputs=(value,), shape=shape))
        return nodes[-1].name

    inputs = [add("query", Reshape(), node.inputs[0], (n, heads, 1, width))]
    for which, part in zip(("keys", "values"), joined, strict=True):
        size, all_ = prod(part.kept), prod(shapes[part.source])
        # A cut of one dimension is dense, so that it can stay where it is.
        flat = add(f"{which}:all", Reshape(), part.source, (1, all_))
        run = add(f"{which}:run", Slice((0, part.start), (1, 1)), flat, (1, size))
        inputs.append(add(f"{which}:kept", Reshape(), run, part.kept))
    inputs += [keys.own, values.own]
    for mask in node.inputs[3:]:
        *lead, all_keys, one = (1,) * (4 - len(shapes[mask])) + shapes[mask]
        inputs.append(add("mask", Reshape(), mask, (*lead, one, all_keys)))
    shape = (n, heads, 1, values.kept[3])
    attend = replace(node, name=f"{node.name}:cached", op=CachedAttention(op.scale), inputs=tuple(inputs), shape=shape)
    return [*nodes, attend, replace(node, op=Reshape(), inputs=(attend.name,))]
