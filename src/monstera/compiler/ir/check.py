"""Checks a graph that anybody may have written: shapes follow from shapes, numbers keep kernels inside their memory.

The compiler takes the shapes of a graph at their word, and lays out memory by them. So whatever it reads from a file
passes here first. Every operator has a rule; one without is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import TypeAlias

import numpy as np

from monstera.compiler.ir.graph import Graph, Node, Shape
from monstera.compiler.ir.interpreter import source_pixels
from monstera.compiler.ir.ops import (
    Activate,
    Activation,
    AdaptivePool,
    Add,
    Affine,
    Attention,
    AvgPool,
    Compare,
    Concat,
    Constant,
    Conv,
    DepthToSpace,
    Embedding,
    Linear,
    MatMul,
    MaxPool,
    Mean,
    Mul,
    Norm,
    Op,
    Pad,
    Permute,
    Recurrent,
    RecurrentKind,
    Reshape,
    Slice,
    Softmax,
    Upsample,
    Where,
)

Shapes: TypeAlias = Sequence[Shape]
ParamShapes: TypeAlias = Mapping[str, Shape]

# Kernels count in 32 bits what lies between two elements; planes with their pads take a few times the elements.
_MOST_ELEMENTS = 2**28
_MOST_DIMENSIONS = 16
_LARGEST_STEP = 2**15
_GATES: Mapping[RecurrentKind, int] = {"gru": 3, "lstm": 4, "rnn_tanh": 1, "rnn_relu": 1}
_LARGEST_FP32 = float(np.finfo(np.float32).max)


class GraphError(ValueError):
    """A graph does not say what it computes, or says it of other shapes."""


def check_graph(graph: Graph) -> None:
    """Check every node of a graph.

    Raises:
        GraphError: names the node and what is wrong with it.
    """
    shapes = graph.shapes()
    for name, array in graph.params.items():
        _demand(array.dtype == np.float32, f"the parameter {name!r} is {array.dtype}, expected float32")
    params = {name: array.shape for name, array in graph.params.items()}
    for name, shape in shapes.items():
        whole = len(shape) <= _MOST_DIMENSIONS and min(shape, default=1) > 0
        _demand(whole and math.prod(shape) <= _MOST_ELEMENTS, f"{name!r} has the shape {list(shape)[:20]}")
    for node in graph.nodes:
        try:
            _check_activation(getattr(node.op, "activation", None))
            rule(node.op, node.shape, params, *[shapes[i] for i in node.inputs])
        except (GraphError, TypeError, ValueError) as reason:
            inputs = ", ".join(str(list(shapes[i])) for i in node.inputs)
            raise GraphError(f"{_shown(node)}: inputs ({inputs}) do not give {list(node.shape)}: {reason}") from reason


def _shown(node: Node) -> str:
    return f"node {node.name!r:.60} ({type(node.op).__name__})"


def _demand(holds: object, otherwise: str = "") -> None:
    if not holds:
        raise GraphError(otherwise or "they do not fit")


def _check_activation(activation: Activation | None) -> None:
    for number in () if activation is None else (activation.low, activation.high, activation.slope):
        _demand(math.isinf(number) or abs(number) <= _LARGEST_FP32, f"{activation} has a number that is not fp32")


@singledispatch
def rule(op: Op, shape: Shape, params: ParamShapes, *inputs: Shape) -> None:  # noqa: ARG001
    """Demand that an operator gives `shape` from these shapes; `params` are the shapes of all parameters."""
    raise GraphError("the operator has no rule in ir/check.py, so it cannot be read from a file")


@rule.register
def _(op: Conv, shape: Shape, params: ParamShapes, x: Shape, *residual: Shape) -> None:
    weight = params[op.weight]
    _demand(residual in ((), (shape,)), "the residual has another shape")
    _demand(op.groups >= 1 and len(weight) == len(x) == len(shape) and len(op.stride) == len(x) - 2)
    _demand(weight[0] % op.groups == 0 and weight[1] * op.groups == x[1] and shape[:2] == (x[0], weight[0]))
    _check_windows(x, shape, weight[2:], op.stride, op.dilation, op.padding)
    _per_row(weight[0], params, op.scale, op.bias)


@rule.register
def _(op: Linear, shape: Shape, params: ParamShapes, x: Shape) -> None:
    rows, columns = params[op.weight]
    _demand(x[-1:] == (columns,) and shape == (*x[:-1], rows))
    _per_row(rows, params, op.scale, op.bias)


@rule.register
def _(op: Affine, shape: Shape, params: ParamShapes, x: Shape) -> None:
    _demand(x == shape and len(x) > 1)
    _per_row(shape[1], params, op.scale, op.shift)


@rule.register
def _(_op: Activate, shape: Shape, _params: ParamShapes, x: Shape) -> None:
    _demand(x == shape)


@rule.register(Add)
@rule.register(Mul)
@rule.register(Compare)
def _(_op: Add | Mul | Compare, shape: Shape, _params: ParamShapes, a: Shape, b: Shape) -> None:
    _demand(np.broadcast_shapes(a, b) == shape)


@rule.register
def _(_op: Where, shape: Shape, _params: ParamShapes, condition: Shape, a: Shape, b: Shape) -> None:
    _demand(np.broadcast_shapes(condition, a, b) == shape)


@rule.register
def _(_op: MatMul, shape: Shape, _params: ParamShapes, a: Shape, b: Shape) -> None:
    _demand(min(len(a), len(b)) >= 2 and a[-1] == b[-2])
    _demand((*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1]) == shape)


@rule.register
def _(op: Recurrent, shape: Shape, params: ParamShapes, x: Shape, *states: Shape) -> None:
    gates, (stacked, hidden) = _GATES[op.kind], params[op.weight]
    _demand(len(x) == 3 and x[2] == stacked == gates * hidden and len(states) == (2 if op.kind == "lstm" else 1))
    _demand(all(state == (x[1], hidden) for state in states) and shape == (x[0] + op.cell, x[1], hidden))
    _per_row(stacked, params, op.bias)


@rule.register
def _(op: Constant, shape: Shape, params: ParamShapes) -> None:
    _demand(params[op.value] == shape)


@rule.register
def _(op: Concat, shape: Shape, _params: ParamShapes, *inputs: Shape) -> None:
    d = op.dim
    _demand(0 <= d < len(shape) and all(len(x) == len(shape) for x in inputs))
    _demand(all(x[:d] + x[d + 1 :] == shape[:d] + shape[d + 1 :] for x in inputs))
    _demand(shape[d] == sum(x[d] for x in inputs))


@rule.register
def _(op: MaxPool, shape: Shape, _params: ParamShapes, x: Shape) -> None:
    _demand(x[:2] == shape[:2] and min(op.padding) >= 0)
    _check_windows(x, shape, op.kernel, op.stride, op.dilation, op.padding)


@rule.register
def _(op: AvgPool, shape: Shape, params: ParamShapes, x: Shape) -> None:
    _demand(x[:2] == shape[:2] and min(op.padding) >= 0 and params[op.factor] == shape[2:])
    _check_windows(x, shape, op.kernel, op.stride, (1,) * len(op.kernel), op.padding)


@rule.register
def _(_op: AdaptivePool, shape: Shape, _params: ParamShapes, x: Shape) -> None:
    _demand(x[:2] == shape[:2] and len(x) == len(shape) and 3 <= len(x) <= 5)


@rule.register
def _(op: Upsample, shape: Shape, _params: ParamShapes, x: Shape) -> None:
    _demand(x[:2] == shape[:2] and len(x) == len(shape) == len(op.step) + 2 and 3 <= len(x) <= 5)
    for n, m, step in zip(x[2:], shape[2:], op.step, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            low, high, _ = source_pixels(op, n, m, step)
        _demand(low.min() >= 0 and high.max() < n, f"a step of {step} leaves the image")


@rule.register
def _(op: Mean, shape: Shape, _params: ParamShapes, x: Shape) -> None:
    _demand(op.dims and list(op.dims) == sorted(set(op.dims)) and op.dims[0] >= 0 and op.dims[-1] < len(x))
    kept = tuple(1 if d in op.dims else n for d, n in enumerate(x))
    _demand(shape in (kept, tuple(n for d, n in enumerate(x) if d not in op.dims)))


@rule.register
def _(_op: Reshape, shape: Shape, _params: ParamShapes, x: Shape) -> None:
    _demand(math.prod(x) == math.prod(shape))


@rule.register
def _(op: Permute, shape: Shape, _params: ParamShapes, x: Shape) -> None:
    _demand(sorted(op.dims) == list(range(len(x))) and shape == tuple(x[d] for d in op.dims))


@rule.register
def _(op: DepthToSpace, shape: Shape, _params: ParamShapes, x: Shape) -> None:
    phases = math.prod(op.block)
    _demand(3 <= len(x) <= 5 and len(op.block) == len(x) - 2 and min(*op.block, op.groups, 1) == 1)
    _demand(x[1] % (phases * op.groups) == 0 and shape[:2] == (x[0], x[1] // phases))
    _demand(shape[2:] == tuple(n * b for n, b in zip(x[2:], op.block, strict=True)))


@rule.register
def _(op: Softmax, shape: Shape, _params: ParamShapes, x: Shape) -> None:
    _demand(x == shape and 0 <= op.dim < len(x))


@rule.register
def _(op: Norm, shape: Shape, params: ParamShapes, x: Shape) -> None:
    _demand(x == shape and 0 <= op.dim < len(x) and 0 <= op.eps <= _LARGEST_FP32)
    _per_row(shape[op.dim], params, op.scale, op.shift)


@rule.register
def _(op: Embedding, shape: Shape, params: ParamShapes, x: Shape) -> None:
    _, features = params[op.weight]
    _demand(0 <= op.dim <= len(x) and shape == (*x[: op.dim], features, *x[op.dim :]))


@rule.register
def _(op: Attention, shape: Shape, _params: ParamShapes, q: Shape, k: Shape, v: Shape, *mask: Shape) -> None:
    # A head whose queries and keys are all dead has no width and still takes the mean of its values.
    _demand(len(q) == len(k) == len(v) == len(shape) == 3 and len(mask) <= 1 and min(*op.qk, *op.v) >= 0)
    _demand(q[0] == k[0] == v[0] == shape[0] and k[2] == v[2] and q[2] == shape[2])
    _demand((q[1], k[1]) == (op.repeats * sum(op.qk), sum(op.qk)))
    _demand((shape[1], v[1]) == (op.repeats * sum(op.v), sum(op.v)))
    whole = (q[0], op.repeats * len(op.qk), k[2], q[2])
    _demand(all(len(m) <= 4 and np.broadcast_shapes(m, whole) == whole for m in mask), "the mask has another shape")
    _demand(abs(op.scale) <= _LARGEST_FP32)


@rule.register
def _(op: Pad, shape: Shape, _params: ParamShapes, x: Shape) -> None:
    _demand(len(op.before) == len(x) == len(shape) and max(map(abs, op.before), default=0) <= _MOST_ELEMENTS)
    _demand(not math.isfinite(op.value) or abs(op.value) <= _LARGEST_FP32)


@rule.register
def _(op: Slice, shape: Shape, _params: ParamShapes, x: Shape) -> None:
    _demand(len(op.start) == len(op.step) == len(x) == len(shape))
    for n, m, start, step in zip(x, shape, op.start, op.step, strict=True):
        _demand(start >= 0 and step >= 1 and start + step * (m - 1) < n, "the slice leaves the tensor")


def _per_row(rows: int, params: ParamShapes, *keys: str | None) -> None:
    for key in keys:
        _demand(key is None or params[key] == (rows,), f"{key!r} is not one number for each of {rows} rows")


def _check_windows(
    x: Shape, shape: Shape, kernel: Shape, stride: Shape, dilation: Shape, padding: tuple[int, ...]
) -> None:
    """Every window lies in the padded input, and there is no room for one more."""
    rank = len(kernel)
    _demand(1 <= rank <= 3 and len(x) == len(shape) == rank + 2)
    _demand(min(*kernel, *stride, *dilation) >= 1, "kernel, stride and dilation must be at least 1")
    _demand(max(*kernel, *stride, *dilation, *map(abs, padding)) <= _LARGEST_STEP, "a window is too large")
    sizes = zip(x[2:], shape[2:], kernel, stride, dilation, padding[:rank], padding[rank:], strict=True)
    for n, m, k, s, d, before, after in sizes:
        _demand(m == (n + before + after - (k - 1) * d - 1) // s + 1 and n + before + after > (k - 1) * d)
