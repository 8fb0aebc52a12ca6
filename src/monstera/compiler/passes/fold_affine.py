"""Fold batch norms and per-channel arithmetic into the operator before them. Weights are never touched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from monstera.compiler.ir import Activate, Add, Affine, Constant, Conv, Graph, Linear, Mul, Node, Shape
from monstera.compiler.ir.interpreter import Array
from monstera.compiler.passes.rewrite import new_key, private_values, rename, resolve


def fold_affine(graph: Graph) -> Graph:
    """Fold affine maps along channels into `scale` and `bias` of convolutions and linear layers, and into each other.

    Mul and Add with per-channel constants count as affine maps. An affine map goes into its producer if nobody else
    reads the value in between and the producer has no activation and no residual yet; one that does nothing is removed.
    Products and sums are computed in float64 and stored in fp32.
    """
    graph = _with_affines(graph)
    private, params = private_values(graph), dict(graph.params)
    nodes = {node.name: node for node in graph.nodes}
    stands_for: dict[str, str] = {}
    for node in graph.nodes:
        if not isinstance(node.op, Affine):
            continue
        producer = nodes.get(resolve(node.inputs[0], stands_for))
        if _is_identity(node.op, params) and node.op.activation is None:
            stands_for[node.name] = nodes.pop(node.name).inputs[0]
            # Who reads the identity reads its input, which others may read too.
            private -= {node.name} if node.inputs[0] not in private else set()
        elif _is_identity(node.op, params) and node.op.activation is not None:
            nodes[node.name] = replace(node, op=Activate(node.op.activation))
        elif producer is not None and node.inputs[0] in private and _can_take(producer):
            nodes[producer.name] = _folded(producer, node.op, params)
            stands_for[node.name] = nodes.pop(node.name).inputs[0]
    return rename(graph, nodes.values(), stands_for, params)


def _is_identity(op: Affine, params: dict[str, Array]) -> bool:
    return bool((params[op.scale] == 1).all() and (params[op.shift] == 0).all())


def _can_take(node: Node) -> bool:
    """Whether a node computes one number per channel of dimension 1 and nothing after it."""
    if isinstance(node.op, Conv | Affine):
        return node.op.activation is None and len(node.inputs) == 1
    # Linear's features stand in the last dimension, affine maps act on dimension 1.
    return isinstance(node.op, Linear) and node.op.activation is None and len(node.shape) == 2


def _folded(node: Node, affine: Affine, params: dict[str, Array]) -> Node:
    """`affine` after the node, as one node; new parameters are added to `params`."""
    op = node.op
    assert isinstance(op, Conv | Linear | Affine)
    shift_key = op.shift if isinstance(op, Affine) else op.bias
    channels = node.shape[1]
    scale = np.ones(channels) if op.scale is None else params[op.scale].astype(np.float64)
    shift = np.zeros(channels) if shift_key is None else params[shift_key].astype(np.float64)
    factor = params[affine.scale].astype(np.float64)
    new_shift = _hold(f"{node.name}:shift", shift * factor + params[affine.shift], params)
    if isinstance(op, Affine):
        new_scale = _hold(f"{node.name}:scale", scale * factor, params)
        return replace(node, op=Affine(new_scale, new_shift, affine.activation))
    # A convolution that only gains a bias stays without scale.
    new_scale = op.scale if (factor == 1).all() else _hold(f"{node.name}:scale", scale * factor, params)
    return replace(node, op=replace(op, scale=new_scale, bias=new_shift, activation=affine.activation))


def _hold(stem: str, value: Array, params: dict[str, Array]) -> str:
    key = new_key(stem, params)
    params[key] = value.astype(np.float32)
    return key


def _with_affines(graph: Graph) -> Graph:
    """Rewrite Mul and Add with a constant per channel (or for all) as affine maps."""
    params, shapes = dict(graph.params), graph.shapes()
    constants = {n.name: params[n.op.value] for n in graph.nodes if isinstance(n.op, Constant)}
    return replace(graph, nodes=tuple(_as_affine(n, constants, shapes, params) for n in graph.nodes), params=params)


def _as_affine(node: Node, constants: dict[str, Array], shapes: dict[str, Shape], params: dict[str, Array]) -> Node:
    """The node as an affine map if it is one; its parameters are added to `params`."""
    if not isinstance(node.op, Add | Mul) or len(node.shape) < 2:
        return node
    for known, other in (node.inputs, node.inputs[::-1]):
        vector = _per_channel(constants[known], len(node.shape)) if known in constants else None
        if vector is None or shapes[other] != node.shape:
            continue
        vector = np.broadcast_to(vector, node.shape[1])
        one, zero = np.ones_like(vector), np.zeros_like(vector)
        scale, shift = (vector, zero) if isinstance(node.op, Mul) else (one, vector)
        keys = (_hold(f"{node.name}:scale", scale, params), _hold(f"{node.name}:shift", shift, params))
        return replace(node, op=Affine(*keys, node.op.activation), inputs=(other,))
    return node


def _per_channel(constant: Array, rank: int) -> Array | None:
    """The numbers along dimension 1 of a constant that varies along no other, when it is broadcast to `rank`."""
    value = constant.reshape((1,) * (rank - constant.ndim) + constant.shape)
    first = value[tuple(slice(None) if d == 1 else slice(1) for d in range(rank))]
    return first.reshape(-1) if (value == first).all() else None
