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
from monstera.compiler.ir.interpreter import Array, Params, activate, evaluate, interpret, meaning
from monstera.compiler.ir.ops import (
    Activate,
    Activation,
    ActivationKind,
    AdaptivePool,
    Add,
    Affine,
    AvgPool,
    Constant,
    Conv,
    Linear,
    Mean,
    Mul,
    Op,
    Pad,
    Recurrent,
    Softmax,
    Upsample,
)

UNIT = 1.01 * 2.0**-24
# Results below the normal range may be flushed to zero.
TINY = 2.0**-126
# Roundings beside the sum itself: scale (twice if it went into the weights), bias, residual, store.
FEW = 6

# The largest slope of each activation; clamps and ReLU have slope 1, leaky ReLU at least its own.
_SLOPE = {"silu": 1.1, "hardswish": 1.5, "hardsigmoid": 1 / 6, "sigmoid": 0.25, "gelu": 1.13, "gelu_tanh": 1.13}
# How an fp32 implementation of the function itself may err: in units of |x| (gated: x times a gate) or of 1 (gates).
_GATED = ("silu", "hardswish", "gelu", "gelu_tanh")
_GATES = ("sigmoid", "hardsigmoid", "tanh")
_FUNCTION_UNITS = 16


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
        errors[node.name] = _node_error(node, params, operands) + TINY
    return {name: errors[name] for name in graph.outputs}


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
    slope = max(1.0, abs(activation.slope)) if kind == "leaky_relu" else _SLOPE.get(kind, 1.0)
    if kind in _GATED:
        own = _FUNCTION_UNITS * (np.abs(before) + error)
    elif kind in _GATES:
        own = np.full_like(before, _FUNCTION_UNITS)
    else:
        own = np.abs(activate(activation, before)) + error
    return slope * error + UNIT * own


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
    for t in range(len(x.value))[:: -1 if op.reverse else 1]:
        u = meaning(hidden, (), params, h.value)
        spread = linear_error(hidden, (), params, h)
        h, c = _next_state(op, Bounded(x.value[t], x.error[t]), Bounded(u, spread), h, c)
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
    top = x.value.max(op.dim, keepdims=True)
    # Every exponent is off by its own error and the maximum's, and by a rounding of the difference.
    exponent = x.error + x.error.max(op.dim, keepdims=True) + UNIT * (np.abs(x.value - top) + 2 * x.error)
    relative = np.minimum(2 * exponent.max(op.dim, keepdims=True), 50.0)
    y = meaning(op, shape, params, x.value)
    return np.minimum(y * (np.expm1(relative) + UNIT * (shape[op.dim] + _FUNCTION_UNITS)), 1.0)
