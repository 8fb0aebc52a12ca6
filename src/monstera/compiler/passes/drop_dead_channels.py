"""Make a network with dead filters physically smaller.

A dead filter still emits a number, act(bias), which its consumers must not lose. Where a consumer can add that number
to its bias (it does not pad, or the number is 0) the channel goes; else it stays as a plane. A channel that no consumer
reads goes as well. Channels that one operator ties together (both operands of an addition, say) go together or not.
Of attention that takes whole heads along, and within a head the pairs of queries and keys that tell no key from
another.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from monstera.compiler.ir import Affine, Attention, Concat, Constant, Conv, DepthToSpace, Graph, Linear, Node, Op
from monstera.compiler.ir.interpreter import Array, Params
from monstera.compiler.passes.channel_ties import Tie, channel_ties
from monstera.compiler.passes.known_channels import Known, Product, channel_count, known_channels, product
from monstera.compiler.passes.rewrite import new_key

Keep = dict[str, Array]
"""For every value a boolean per channel."""


def drop_dead_channels(graph: Graph) -> Graph:
    """Remove channels that are known and can be folded into their consumers' bias, and channels that nobody reads.

    Values all of whose channels are known become constants. Weights are sliced, never changed; the channels of inputs,
    outputs and of grouped (but not depthwise) convolutions stay.
    """
    products = {node.name: p for node in graph.nodes if (p := product(node, graph.params))}
    known = known_channels(graph, products)
    graph = _with_constants(graph, known)
    keep = _kept_channels(graph, known, products)
    if all(kept.all() for kept in keep.values()):
        return graph
    return _shrunk(graph, keep, known, products)


def _with_constants(graph: Graph, known: Known) -> Graph:
    params, nodes = dict(graph.params), []
    for node in graph.nodes:
        numbers = known[node.name]
        if np.isfinite(numbers).all() and not isinstance(node.op, Constant):
            planes = np.broadcast_to(numbers.reshape(1, -1, *[1] * (len(node.shape) - 2)), node.shape)
            key = new_key(f"{node.name}:known", params)
            params[key] = np.ascontiguousarray(planes, np.float32)
            node = replace(node, op=Constant(key), inputs=())
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), params=params)


def _kept_channels(graph: Graph, known: Known, products: dict[str, Product]) -> Keep:
    """The smallest choice that keeps outputs, what kept channels read, and what is tied to a kept channel."""
    shapes = graph.shapes()
    keep = {name: np.zeros(channel_count(shape), bool) for name, shape in shapes.items()}
    ties: dict[str, list[Tie]] = {}
    pinned = {*graph.outputs, *[name for name, _ in graph.inputs]}
    for node in graph.nodes:
        found = channel_ties(node, shapes)
        ties[node.name] = found or []
        pinned |= set() if found is not None else {node.name, *node.inputs}
        pinned |= {*node.inputs[3:]} if isinstance(node.op, Attention) else set()
    for name in pinned:
        keep[name][:] = True
    before, after = -1, 0
    while after != before:
        for node in reversed(graph.nodes):
            for tie in ties[node.name]:
                tie.spread(keep)
            if isinstance(node.op, Conv | Linear) and node.name in products:
                _keep_what_is_read(node, keep, known, products[node.name])
            if isinstance(node.op, Attention) and ties[node.name]:
                _keep_what_tells_keys_apart(node, node.op, keep, known)
        before, after = after, sum(int(kept.sum()) for kept in keep.values())
    return keep


def _keep_what_is_read(node: Node, keep: Keep, known: Known, matrix: Product) -> None:
    """Mark in `keep` the channels that the kept filters of one matrix read and cannot fold."""
    filters, channels = keep[node.name], keep[node.inputs[0]]
    if len(matrix.weight) != 1 or not filters.any():
        # Groups are tied or pinned.
        return
    channels |= matrix.reads[0][filters].any(0) & ~matrix.foldable(known[node.inputs[0]])
    # A matrix needs a column, even where only its bias and residual are left.
    channels[0] |= not channels.any()


def _keep_what_tells_keys_apart(node: Node, op: Attention, keep: Keep, known: Known) -> None:
    """Mark in `keep` the queries and keys behind the scores of kept heads.

    What a query adds to the scores of all keys alike changes no softmax: a pair counts only where the key's channel is
    not known and the query's is not zero.
    """
    q, k = node.inputs[:2]
    heads = [head for head in op.heads if keep[node.name][head.y].any()]
    for head in heads:
        keep[q][head.q] |= np.isnan(known[k][head.k]) & (known[q][head.q] != 0)
    # Queries and keys need a channel, even where all keys count alike.
    for head in [head for head in heads if head.q.start < head.q.stop][:1]:
        keep[q][head.q.start] |= not keep[q].any()


def _shrunk(graph: Graph, keep: Keep, known: Known, products: dict[str, Product]) -> Graph:
    """The graph without the channels that are not kept."""
    params, nodes = dict(graph.params), []
    for node in graph.nodes:
        kept = keep[node.name]
        if not kept.any():
            continue
        if node.name in products and isinstance(node.op, Conv | Linear):
            op, arrays = _shrunk_product(node, keep, known, products[node.name], graph.params)
        else:
            op, arrays = node.op, _shrunk_vectors(node, kept, graph.params)
        op = _regrouped(op, node, keep)
        keys = {field: new_key(f"{node.name}:{field}:kept", params) for field in arrays}
        params.update({keys[field]: np.ascontiguousarray(array, np.float32) for field, array in arrays.items()})
        inputs = tuple(i for i in node.inputs if keep[i].any()) if isinstance(op, Concat) else node.inputs
        shape = (node.shape[0], int(kept.sum()), *node.shape[2:]) if len(node.shape) > 1 else node.shape
        nodes.append(replace(node, op=replace(op, **keys), inputs=inputs, shape=shape))
    return replace(graph, nodes=tuple(nodes), params=params)


def _regrouped(op: Op, node: Node, keep: Keep) -> Op:
    """The operator for as many groups, or heads of such widths, as are left."""
    kept = keep[node.name]
    if isinstance(op, DepthToSpace) and op.groups > 1 and not kept.all():
        # There are as many groups as channels, or none of them could go.
        return replace(op, groups=int(kept.sum()))
    if isinstance(op, Attention):
        groups = [(keep[node.inputs[1]][h.k].sum(), keep[node.inputs[2]][h.v].sum()) for h in op.heads[:: op.repeats]]
        left = [(int(qk), int(v)) for qk, v in groups if qk or v]
        return replace(op, qk=tuple(qk for qk, _ in left), v=tuple(v for _, v in left))
    return op


def _shrunk_vectors(node: Node, kept: Array, params: Params) -> dict[str, Array]:
    """What is left of an operator's per-channel parameters, by field; empty if nothing changes."""
    if kept.all():
        return {}
    if isinstance(node.op, Affine):
        return {"scale": params[node.op.scale][kept], "shift": params[node.op.shift][kept]}
    return {"value": params[node.op.value][:, kept]} if isinstance(node.op, Constant) else {}


def _shrunk_product(
    node: Node, keep: Keep, known: Known, matrix: Product, params: Params
) -> tuple[Conv | Linear, dict[str, Array]]:
    """The operator with as many groups as are left, and its new parameters by field."""
    op, filters, channels = node.op, keep[node.name], keep[node.inputs[0]]
    assert isinstance(op, Conv | Linear)
    if filters.all() and channels.all():
        return op, {}
    weight = params[op.weight][filters]
    if isinstance(op, Conv) and op.groups > 1:
        op = replace(op, groups=int(channels.sum()))
    else:
        weight = weight[:, channels]
    arrays = {"weight": weight}
    bias = matrix.bias_with(np.where(channels, 0, np.nan_to_num(known[node.inputs[0]])))[filters]
    if op.bias is not None or bias.any():
        arrays["bias"] = bias
    if op.scale is not None:
        arrays["scale"] = matrix.scale[filters]
    return op, arrays
