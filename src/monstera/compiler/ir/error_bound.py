"""How far an fp32 program may stray from the float64 interpreter: a running error analysis of a graph.

Every value carries its exact value and an elementwise bound on the error of *any* fp32 program that evaluates the same
operators, with sums in any order, with or without FMA, with per-filter scales multiplied into weights or not.
Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1 and 3.3 (gamma_n, running
error analysis); gamma_n is replaced by 1.01 n u, valid for n u < 0.01.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import singledispatch
from math import prod

import numpy as np

from monstera.compiler.ir.graph import Graph, Node, Shape, param_keys
from monstera.compiler.ir.interpreter import (
    Array,
    Params,
    activate,
    attention_scores,
    evaluate,
    interpret,
    meaning,
    softmax_of_keys,
    whole_attention,
)
from monstera.compiler.ir.ops import (
    Activate,
    Activation,
    ActivationKind,
    AdaptivePool,
    Add,
    Affine,
    Attention,
    AvgPool,
    CachedAttention,
    Compare,
    Concat,
    Constant,
    Conv,
    Embedding,
    Linear,
    MatMul,
    Mean,
    Mul,
    Norm,
    Op,
    Pad,
    Permute,
    Recurrent,
    Reshape,
    Slice,
    Softmax,
    Upsample,
    Where,
)
from monstera.runtime import LARGEST_WHOLE

UNIT = 1.01 * 2.0**-24
# Results below the normal range may be flushed to zero.
TINY = 2.0**-126
# Roundings beside the sum itself: scale (twice if it went into the weights), bias, residual, store.
FEW = 6

# A little more than the functions' ends are apart, as these are rounded.
_RANGE = {"sigmoid": 1.001, "hardsigmoid": 1.001, "tanh": 2.002}
# The largest slope of each activation; clamps and ReLU have slope 1, leaky ReLU at least its own.
_SLOPE = {
    "silu": 1.1,
    "hardswish": 1.5,
    "hardsigmoid": 1 / 6,
    "sigmoid": 0.25,
    "gelu": 1.13,
    "gelu_tanh": 1.13,
    "erf": 1.13,
}
# How an fp32 implementation of the function itself may err: in units of |x| (gated: x times a gate) or of 1 (gates).
_GATED = ("silu", "hardswish", "gelu", "gelu_tanh")
_GATES = ("sigmoid", "hardsigmoid", "tanh", "erf", "cos", "sin")
_FUNCTION_UNITS = 16
# Functions that are monotone where they are defined: what an interval becomes is known at its ends.
_MONOTONE = ("exp", "sqrt", "rsqrt", "reciprocal")
# What is exact of whole numbers, as long as fp32 holds all of them.
_EXACT = (Constant, Add, Mul, Compare, Where, Reshape, Permute, Slice, Concat, Linear, Activate)


@dataclass(frozen=True, slots=True)
class Bounded:
    """A value in float64 and an elementwise bound on its fp32 error (both of the value's shape)."""

    value: Array
    error: Array

    @property
    def size(self) -> Array:
        """The largest magnitude that the fp32 value can have."""
        return np.abs(self.value) + self.error


def error_bound(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Bound, elementwise, the error of an fp32 program for every output of the graph; inputs count as exact."""
    values = interpret(graph, inputs)
    errors = {name: np.zeros(shape) for name, shape in graph.inputs}
    for node in graph.nodes:
        operands = [Bounded(values[i], errors[i]) for i in node.inputs]
        params = {key: graph.params[key].astype(np.float64) for key in param_keys(node.op)}
        exact = _is_exact(node, params, operands, values[node.name])
        errors[node.name] = np.zeros(node.shape) if exact else _node_error(node, params, operands) + TINY
    return {name: errors[name] for name in graph.outputs}


def _is_exact(node: Node, params: Params, operands: list[Bounded], value: Array) -> bool:
    """Whether all that happens is sums, products and comparisons of whole numbers that fp32 holds.

    A value that is compared with itself is asked whether it is NaN, which rounding does not change.
    """
    if isinstance(node.op, Compare) and node.inputs[0] == node.inputs[1]:
        return True
    if not isinstance(node.op, _EXACT) or any(x.error.any() for x in operands):
        return False
    if isinstance(node.op, Linear):
        # Partial sums stay below this one.
        value = np.abs(operands[0].value) @ np.abs(params[node.op.weight]).T
    parts = [value, *params.values(), *(x.value for x in operands)]
    if isinstance(node.op, Activate) and node.op.activation.kind == "not_zero":
        parts = [value]
    return all(bool((np.abs(p) < LARGEST_WHOLE).all() and (p == np.rint(p)).all()) for p in parts)


def _node_error(node: Node, params: Params, operands: list[Bounded]) -> Array:
    """The error of the operator before its activation, then through the activation."""
    activation = getattr(node.op, "activation", None)
    if activation is None:
        return linear_error(node.op, node.shape, params, *operands)
    op = Activate(Activation("clamp")) if isinstance(node.op, Activate) else replace(node.op, activation=None)
    error = linear_error(op, node.shape, params, *operands)
    before = evaluate(replace(node, op=op), [x.value for x in operands], params)
    return _activation_error(activation, before, error)


def _activation_error(activation: Activation, before: Array, error: Array) -> Array:
    """Lipschitz times the error that comes in, plus the function's own error."""
    kind = activation.kind
    if kind in _MONOTONE:
        return _monotone_error(activation, before, error)
    if kind == "not_zero":
        return np.where((error == 0) | (np.abs(before) > error), 0.0, 1.0)
    slope = max(1.0, abs(activation.slope)) if kind == "leaky_relu" else _SLOPE.get(kind, 1.0)
    if kind in _GATED:
        own = _FUNCTION_UNITS * (np.abs(before) + error)
    elif kind in _GATES:
        own = np.full_like(before, _FUNCTION_UNITS)
    else:
        own = np.abs(activate(activation, before)) + error
    # No error is larger than the function's range.
    return np.minimum(slope * error + UNIT * own, _RANGE.get(kind, np.inf))


def _monotone_error(activation: Activation, before: Array, error: Array) -> Array:
    """The larger distance to the ends of the interval; without bound where the function ends inside."""
    with np.errstate(all="ignore"):
        value = activate(activation, before)
        low, high = (activate(activation, end) for end in (before - error, before + error))
        ends = [np.nan_to_num(np.abs(end - value), nan=np.inf) for end in (low, high)]
        crossed = (activation.kind == "reciprocal") & (np.abs(before) <= error)
    wide = np.where(crossed, np.inf, np.maximum(*ends))
    return wide + UNIT * _FUNCTION_UNITS * (np.abs(value) + wide)


@singledispatch
def linear_error(op: Op, shape: Shape, params: Params, *operands: Bounded) -> Array:
    """The error of an operator without activation. By default values only move, or the largest of several wins."""
    return np.maximum(meaning(op, shape, params, *[x.error for x in operands]), 0)


def _spread(op: Op, shape: Shape, params: Params, terms: int, x: Bounded) -> Array:
    """Error of `sum w x` over `terms` products: |w| carries the error that comes in, and u per term is added."""
    positive = {key: np.abs(value) for key, value in params.items()}
    carried, size = (meaning(op, shape, positive, a) for a in (x.error, x.size))
    return carried + UNIT * (terms + FEW) * size


def _size(params: Params, key: str | None, ndim: int) -> Array:
    value = np.zeros(1) if key is None else np.abs(params[key])
    return value.reshape(-1, *[1] * (ndim - 2))


@linear_error.register
def _(op: Conv, shape: Shape, params: Params, x: Bounded, residual: Bounded | None = None) -> Array:
    error = _spread(replace(op, bias=None), shape, params, params[op.weight][0].size, x)
    error = error + UNIT * FEW * _size(params, op.bias, x.value.ndim)
    return error if residual is None else error + residual.error + UNIT * FEW * residual.size


@linear_error.register
def _(op: Linear, shape: Shape, params: Params, x: Bounded) -> Array:
    error = _spread(replace(op, bias=None), shape, params, params[op.weight].shape[1], x)
    return error + UNIT * FEW * _size(params, op.bias, 2)


@linear_error.register
def _(op: Recurrent, shape: Shape, params: Params, x: Bounded, h: Bounded, c: Bounded | None = None) -> Array:
    error = np.empty((len(x.value) + op.cell, *shape[1:]))
    hidden = Linear(op.weight, op.bias)
    # Else products of errors grow beyond all bounds. A state stays between -1 and 1 once it is there, and a cell grows
    # by at most 1 in a step.
    most_h = np.full_like(h.value, np.inf) if op.kind == "rnn_relu" else 2.002 * np.maximum(1, h.size)
    most_c = None if c is None else 2.002 * (c.size + len(x.value))
    for t in range(len(x.value))[:: -1 if op.reverse else 1]:
        u = meaning(hidden, (), params, h.value)
        spread = linear_error(hidden, (), params, h)
        h, c = _next_state(op, Bounded(x.value[t], x.error[t]), Bounded(u, spread), h, c)
        h = Bounded(h.value, np.minimum(h.error, most_h))
        c = None if c is None or most_c is None else Bounded(c.value, np.minimum(c.error, most_c))
        error[t] = h.error
    if c is not None and op.cell:
        error[-1] = c.error
    return error


def _next_state(op: Recurrent, x: Bounded, u: Bounded, h: Bounded, c: Bounded | None) -> tuple[Bounded, Bounded | None]:
    """State and cell after one step of a recurrent layer."""
    if op.kind == "gru":
        (x_r, x_z, x_n), (u_r, u_z, u_n) = _gates(x, 3), _gates(u, 3)
        z = _activated("sigmoid", _sum(x_z, u_z))
        n = _activated("tanh", _sum(x_n, _product(_activated("sigmoid", _sum(x_r, u_r)), u_n)))
        # The sum n + z (h - n), in which errors of n and h are weighed by 1 - z and z.
        value = n.value + z.value * (h.value - n.value)
        weighed = (
            (1 - z.value) * n.error + z.value * h.error + z.error * (np.abs(h.value - n.value) + h.error + n.error)
        )
        return Bounded(value, weighed + UNIT * FEW * (h.size + n.size)), None
    if op.kind == "lstm":
        assert c is not None
        i, f, g, o = _gates(_sum(x, u), 4)
        kept, new = _product(_activated("sigmoid", f), c), _product(_activated("sigmoid", i), _activated("tanh", g))
        c = _sum(kept, new)
        return _product(_activated("sigmoid", o), _activated("tanh", c)), c
    return _activated("tanh" if op.kind == "rnn_tanh" else "relu", _sum(x, u)), None


def _gates(stacked: Bounded, count: int) -> list[Bounded]:
    """The gates that lie side by side in the last dimension."""
    parts = (np.split(array, count, -1) for array in (stacked.value, stacked.error))
    return [Bounded(value, error) for value, error in zip(*parts, strict=True)]


def _sum(a: Bounded, b: Bounded) -> Bounded:
    return Bounded(a.value + b.value, linear_error(Add(), (), {}, a, b))


def _product(a: Bounded, b: Bounded) -> Bounded:
    return Bounded(a.value * b.value, linear_error(Mul(), (), {}, a, b))


def _activated(kind: ActivationKind, x: Bounded) -> Bounded:
    activation = Activation(kind)
    return Bounded(activate(activation, x.value), _activation_error(activation, x.value, x.error))


@linear_error.register
def _(op: Affine, _shape: Shape, params: Params, x: Bounded) -> Array:
    scale, shift = (_size(params, key, x.value.ndim) for key in (op.scale, op.shift))
    return scale * x.error + UNIT * FEW * (scale * x.size + shift)


@linear_error.register
def _(_op: Add, _shape: Shape, _params: Params, a: Bounded, b: Bounded) -> Array:
    return a.error + b.error + UNIT * 2 * (a.size + b.size)


@linear_error.register
def _(_op: Mul, _shape: Shape, _params: Params, a: Bounded, b: Bounded) -> Array:
    # Twice: a division by a constant arrives as a product with its rounded reciprocal.
    return a.error * b.size + np.abs(a.value) * b.error + UNIT * 2 * a.size * b.size


@linear_error.register
def _(_op: Constant, shape: Shape, _params: Params) -> Array:
    return np.zeros(shape)


@linear_error.register
def _(op: Pad, shape: Shape, params: Params, x: Bounded) -> Array:
    return meaning(replace(op, value=0.0), shape, params, x.error)


@linear_error.register
def _(op: AvgPool, shape: Shape, params: Params, x: Bounded) -> Array:
    return _spread(op, shape, params, prod(op.kernel), x)


@linear_error.register
def _(op: AdaptivePool, shape: Shape, params: Params, x: Bounded) -> Array:
    if op.mode == "max":
        return meaning(op, shape, params, x.error)
    return _spread(op, shape, params, prod(x.value.shape[2:]), x)


@linear_error.register
def _(op: Mean, shape: Shape, params: Params, x: Bounded) -> Array:
    return _spread(op, shape, params, prod(x.value.shape[d] for d in op.dims), x)


@linear_error.register
def _(op: Upsample, shape: Shape, params: Params, x: Bounded) -> Array:
    if op.mode == "nearest":
        return meaning(op, shape, params, x.error)
    # A position near pixel n is itself off by a few n u, and so is the weight that it gives.
    return _spread(op, shape, params, 4 * (1 + sum(x.value.shape[2:])), x)


@linear_error.register
def _(op: Softmax, shape: Shape, params: Params, x: Bounded) -> Array:
    return _softmax_error(x.value, x.error, meaning(op, shape, params, x.value), op.dim)


def _softmax_error(value: Array, error: Array, result: Array, axis: int) -> Array:
    """The error of a softmax whose exact value is `result`."""
    top = value.max(axis, keepdims=True)
    # What lies this far below the maximum is nothing in fp32, wherever it lies exactly: masks add huge numbers.
    nothing = value + 2 * error < top - 200
    value, error = np.where(nothing, top, value), np.where(nothing, 0, error)
    # Every exponent is off by its own error and the maximum's, and by a rounding of the difference.
    distance = np.where(np.isfinite(value), np.abs(value - np.where(np.isfinite(top), top, 0)), 0)
    exponent = error + error.max(axis, keepdims=True) + UNIT * (distance + 2 * error)
    relative = np.minimum(2 * exponent.max(axis, keepdims=True), 50.0)
    rounding = UNIT * (value.shape[axis] + _FUNCTION_UNITS)
    return np.minimum(result * (np.expm1(relative) + rounding), 1.0)


@linear_error.register
def _(_op: Compare, _shape: Shape, _params: Params, a: Bounded, b: Bounded) -> Array:
    far = np.abs(a.value - b.value) > a.error + b.error
    return np.where(far | (a.error + b.error == 0), 0.0, 1.0)


@linear_error.register
def _(_op: Where, shape: Shape, _params: Params, condition: Bounded, a: Bounded, b: Bounded) -> Array:
    sure = (condition.error == 0) | (np.abs(condition.value) > condition.error)
    chosen = np.where(condition.value != 0, a.error, b.error)
    with np.errstate(invalid="ignore"):
        # NaN and infinities may be what is not chosen.
        either = np.abs(a.value - b.value) + a.error + b.error
    return np.broadcast_to(np.where(sure, chosen, either), shape)


@linear_error.register
def _(_op: Embedding, shape: Shape, _params: Params, x: Bounded) -> Array:
    return np.where(x.error.any(), np.inf, np.zeros(shape))


@linear_error.register
def _(_op: MatMul, _shape: Shape, _params: Params, a: Bounded, b: Bounded) -> Array:
    return _product_error(a, b)


def _product_error(a: Bounded, b: Bounded) -> Array:
    carried = a.error @ b.size + np.abs(a.value) @ b.error
    return carried + UNIT * (a.value.shape[-1] + FEW) * (a.size @ b.size)


@linear_error.register
def _(op: Norm, _shape: Shape, params: Params, x: Bounded) -> Array:
    terms, along = x.value.shape[op.dim] + FEW, [-1 if d == op.dim else 1 for d in range(x.value.ndim)]

    def mean(value: Array) -> Array:
        return value.mean(op.dim, keepdims=True)

    middle = mean(x.value) if op.centered else np.zeros(1)
    off = mean(x.error) + UNIT * terms * mean(x.size) if op.centered else np.zeros(1)
    apart = Bounded(x.value - middle, x.error + off + UNIT * (x.size + np.abs(middle) + off))
    square = mean(np.square(apart.value)) + op.eps
    square_off = mean((2 * np.abs(apart.value) + apart.error) * apart.error) + UNIT * terms * mean(
        np.square(apart.size)
    )
    with np.errstate(divide="ignore"):
        factor, most = 1 / np.sqrt(square), 1 / np.sqrt(np.maximum(square - square_off, op.eps))
    factor_off = most - factor + UNIT * _FUNCTION_UNITS * most
    scale, shift = (0 if key is None else np.abs(params[key]).reshape(along) for key in (op.scale, op.shift))
    scale = 1 if op.scale is None else scale
    error = apart.error * most + np.abs(apart.value) * factor_off
    return scale * error + UNIT * FEW * (scale * apart.size * most + shift)


@linear_error.register
def _(
    op: Attention, _shape: Shape, _params: Params, q: Bounded, k: Bounded, v: Bounded, mask: Bounded | None = None
) -> Array:
    scores = attention_scores(op, q.value, k.value, None if mask is None else mask.value)
    parts = []
    for h, (head, exact) in enumerate(zip(op.heads, scores, strict=True)):
        mine = [Bounded(x.value[:, c], x.error[:, c]) for x, c in ((k, head.k), (q, head.q), (v, head.v))]
        keys = Bounded(mine[0].value.swapaxes(1, 2), mine[0].error.swapaxes(1, 2))
        error = abs(op.scale) * _product_error(keys, mine[1])
        if mask is not None:
            wide = (len(exact), len(scores), *exact.shape[1:])
            error = error + np.broadcast_to(mask.error, wide)[:, h]
        error = np.where(np.isfinite(exact), error + UNIT * 2 * np.abs(np.nan_to_num(exact, neginf=0.0)), 0)
        weights = softmax_of_keys(exact)
        parts.append(_product_error(mine[2], Bounded(weights, _softmax_error(exact, error, weights, axis=1))))
    return np.concatenate(parts, axis=1)


@linear_error.register
def _(op: CachedAttention, shape: Shape, params: Params, *inputs: Bounded) -> Array:
    attention, values = whole_attention(op, *(x.value for x in inputs))
    _, errors = whole_attention(op, *(x.error for x in inputs))
    n, heads, queries, width = shape
    bounded = [Bounded(value, error) for value, error in zip(values, errors, strict=True)]
    return linear_error(attention, shape, params, *bounded).reshape(n, heads, width, queries).swapaxes(2, 3)
