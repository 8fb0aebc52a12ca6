"""What every operator means, in plain numpy. The compiled program is only an optimisation of this file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import singledispatch
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from monstera.compiler.ir.graph import Graph, Node, Shape, param_keys
from monstera.compiler.ir.ops import (
    Activate,
    Activation,
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
    Padding,
    Permute,
    Recurrent,
    Reshape,
    Sizes,
    Slice,
    Softmax,
    Upsample,
    Where,
)

Array: TypeAlias = NDArray[Any]
Params: TypeAlias = Mapping[str, Array]


def interpret(graph: Graph, inputs: Mapping[str, Array], dtype: DTypeLike = np.float64) -> dict[str, Array]:
    """Compute every value of the graph, inputs and constants included, in the given precision.

    Raises:
        ValueError: an input is missing or has another shape than the graph says.
    """
    values: dict[str, Array] = {}
    for name, shape in graph.inputs:
        if name not in inputs:
            raise ValueError(f"input {name!r} is missing; got {sorted(inputs)}")
        values[name] = np.asarray(inputs[name], dtype)
        if values[name].shape != shape:
            raise ValueError(f"input {name!r}: expected shape {shape}, got {values[name].shape}")
    for node in graph.nodes:
        values[node.name] = evaluate(node, [values[i] for i in node.inputs], graph.params, dtype)
    return values


def evaluate(node: Node, inputs: list[Array], params: Params, dtype: DTypeLike = np.float64) -> Array:
    """Compute one node from the values of its inputs.

    Raises:
        ValueError: the result has another shape than the node says, so the graph is wrong.
    """
    mine = {key: params[key].astype(dtype) for key in param_keys(node.op)}
    result = meaning(node.op, node.shape, mine, *inputs)
    if result.shape != node.shape:
        raise ValueError(f"{node.name!r} ({node.op}): the graph says {node.shape}, its inputs give {result.shape}")
    return result


@singledispatch
def meaning(op: Op, shape: Shape, params: Params, *inputs: Array) -> Array:  # noqa: ARG001
    """What `op` computes. `shape` is the node's; `params` holds what the operator names, in the inputs' dtype."""
    raise TypeError(f"the interpreter does not know {op}")


@meaning.register
def _(op: Conv, shape: Shape, params: Params, x: Array, residual: Array | None = None) -> Array:
    weight = params[op.weight]
    filters, channels, *kernel = weight.shape
    # [batch, group, channel, *spatial] times [group, filter, channel], tap by tap.
    x = _padded(x, op.padding)
    x = x.reshape(x.shape[0], op.groups, channels, *x.shape[2:])
    taps = weight.reshape(op.groups, filters // op.groups, channels, *kernel)
    y = np.zeros((shape[0], op.groups, filters // op.groups, math.prod(shape[2:])), x.dtype)
    for tap in np.ndindex(*kernel):
        window = _window(x, tap, shape, op.stride, op.dilation)
        y += taps[(..., *tap)] @ window.reshape(*window.shape[:3], -1)
    y = _scale_and_shift(y.reshape(shape), params, op.scale, op.bias, axis=1)
    return activate(op.activation, y if residual is None else y + residual)


@meaning.register
def _(op: Linear, _shape: Shape, params: Params, x: Array) -> Array:
    return activate(op.activation, _scale_and_shift(x @ params[op.weight].T, params, op.scale, op.bias, axis=-1))


@meaning.register
def _(op: Recurrent, shape: Shape, params: Params, x: Array, h: Array, c: Array | None = None) -> Array:
    y = np.empty((len(x) + op.cell, *shape[1:]), x.dtype)
    for t in range(len(x))[:: -1 if op.reverse else 1]:
        u = _scale_and_shift(h @ params[op.weight].T, params, None, op.bias, axis=-1)
        h, c = _next_state(op, x[t], u, h, c)
        y[t] = h
    if op.cell:
        y[-1] = c
    return y


def _next_state(op: Recurrent, x: Array, u: Array, h: Array, c: Array | None) -> tuple[Array, Array | None]:
    """State and cell after one step, from the products of input and state with the stacked gates."""
    match op.kind:
        case "gru":
            (x_r, x_z, x_n), (u_r, u_z, u_n) = (np.split(v, 3, -1) for v in (x, u))
            z = _sigmoid(x_z + u_z)
            return (1 - z) * np.tanh(x_n + _sigmoid(x_r + u_r) * u_n) + z * h, None
        case "lstm":
            assert c is not None
            i, f, g, o = np.split(x + u, 4, -1)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            return _sigmoid(o) * np.tanh(c), c
        case "rnn_tanh":
            return np.tanh(x + u), None
        case "rnn_relu":
            return np.maximum(x + u, 0), None


@meaning.register
def _(op: Affine, _shape: Shape, params: Params, x: Array) -> Array:
    return activate(op.activation, _scale_and_shift(x, params, op.scale, op.shift, axis=1))


@meaning.register
def _(op: Activate, _shape: Shape, _params: Params, x: Array) -> Array:
    return activate(op.activation, x)


@meaning.register
def _(op: Add, _shape: Shape, _params: Params, a: Array, b: Array) -> Array:
    return activate(op.activation, a + b)


@meaning.register
def _(op: Mul, _shape: Shape, _params: Params, a: Array, b: Array) -> Array:
    return activate(op.activation, a * b)


@meaning.register
def _(op: Compare, _shape: Shape, _params: Params, a: Array, b: Array) -> Array:
    holds = {"eq": np.equal, "lt": np.less, "le": np.less_equal}[op.kind]
    return holds(a, b).astype(a.dtype)


@meaning.register
def _(_op: Where, _shape: Shape, _params: Params, condition: Array, a: Array, b: Array) -> Array:
    return np.where(condition != 0, a, b)


@meaning.register
def _(op: Constant, _shape: Shape, params: Params) -> Array:
    return params[op.value]


@meaning.register
def _(op: Concat, _shape: Shape, _params: Params, *inputs: Array) -> Array:
    return np.concatenate(inputs, op.dim)


@meaning.register
def _(op: MaxPool, shape: Shape, _params: Params, x: Array) -> Array:
    x = _padded(x, op.padding, -np.inf)
    windows = (_window(x, tap, shape, op.stride, op.dilation) for tap in np.ndindex(*op.kernel))
    return np.maximum.reduce([*windows])


@meaning.register
def _(op: AvgPool, shape: Shape, params: Params, x: Array) -> Array:
    x = _padded(x, op.padding)
    windows = (_window(x, tap, shape, op.stride, (1,) * len(tap)) for tap in np.ndindex(*op.kernel))
    return np.add.reduce([*windows]) * params[op.factor]


@meaning.register
def _(op: AdaptivePool, shape: Shape, _params: Params, x: Array) -> Array:
    # A window is a product of intervals, so that one dimension after the other gives the mean (or maximum) of all.
    reduce = np.mean if op.mode == "mean" else np.max
    for axis in range(2, x.ndim):
        windows = adaptive_windows(x.shape[axis], shape[axis])
        x = np.stack([reduce(x.take(range(first, last), axis), axis) for first, last in windows], axis)
    return x


@meaning.register
def _(op: Upsample, shape: Shape, _params: Params, x: Array) -> Array:
    for axis, step in enumerate(op.step, 2):
        low, high, fraction = source_pixels(op, x.shape[axis], shape[axis], step)
        fraction = fraction.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1 - axis))
        x = x.take(low, axis) * (1 - fraction) + x.take(high, axis) * fraction
    return x


@meaning.register
def _(op: Mean, shape: Shape, _params: Params, x: Array) -> Array:
    return x.mean(op.dims, keepdims=len(shape) == x.ndim)


@meaning.register
def _(_op: Reshape, shape: Shape, _params: Params, x: Array) -> Array:
    return x.reshape(shape)


@meaning.register
def _(op: Permute, _shape: Shape, _params: Params, x: Array) -> Array:
    return x.transpose(op.dims)


@meaning.register
def _(op: DepthToSpace, shape: Shape, _params: Params, x: Array) -> Array:
    rank, sizes = len(op.block), x.shape[2:]
    x = x.reshape(x.shape[0], op.groups, *op.block, -1, *sizes)
    # [n, groups, *block, c, *sizes] to [n, groups, c, size, block, size, block, ...].
    pixels = (axis for d in range(rank) for axis in (3 + rank + d, 2 + d))
    return x.transpose(0, 1, 2 + rank, *pixels).reshape(shape)


@meaning.register
def _(op: Norm, _shape: Shape, params: Params, x: Array) -> Array:
    x = x - x.mean(op.dim, keepdims=True) if op.centered else x
    y = x / np.sqrt(np.square(x).mean(op.dim, keepdims=True) + op.eps)
    return np.moveaxis(_scale_and_shift(np.moveaxis(y, op.dim, -1), params, op.scale, op.shift, axis=-1), -1, op.dim)


@meaning.register
def _(op: Embedding, _shape: Shape, params: Params, x: Array) -> Array:
    table = params[op.weight]
    known = (x >= 0) & (x < len(table))
    rows = table[np.where(known, x, 0).astype(np.int64)]
    return np.moveaxis(np.where(known[..., None], rows, np.nan), -1, op.dim)


@meaning.register
def _(_op: MatMul, _shape: Shape, _params: Params, a: Array, b: Array) -> Array:
    return a @ b


@meaning.register
def _(op: Attention, _shape: Shape, _params: Params, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    scores = attention_scores(op, q, k, mask)
    heads = zip(op.heads, scores, strict=True)
    return np.concatenate([v[:, head.v] @ softmax_of_keys(s) for head, s in heads], axis=1)


def attention_scores(op: Attention, q: Array, k: Array, mask: Array | None) -> list[Array]:
    """The scores of every head, `[n, keys, queries]` each."""
    keys, queries = k.shape[2], q.shape[2]
    hidden = np.arange(keys)[:, None] > np.arange(queries) if op.causal else np.zeros((keys, queries), bool)
    scores = [op.scale * (k[:, head.k].swapaxes(1, 2) @ q[:, head.q]) for head in op.heads]
    if mask is not None:
        wide = np.broadcast_to(mask, (len(q), len(scores), keys, queries))
        scores = [s + wide[:, h] for h, s in enumerate(scores)]
    return [np.where(hidden, -np.inf, s) for s in scores]


@meaning.register
def _(op: CachedAttention, shape: Shape, params: Params, *inputs: Array) -> Array:
    attention, operands = whole_attention(op, *inputs)
    n, heads, queries, values = shape
    y = meaning(attention, (n, heads * values, queries), params, *operands)
    return y.reshape(n, heads, values, queries).swapaxes(2, 3)


def whole_attention(
    op: CachedAttention, q: Array, k: Array, v: Array, own_k: Array, own_v: Array, mask: Array | None = None
) -> tuple[Attention, tuple[Array, ...]]:
    """The same channels first, with all keys and values as one, and its operands."""
    tokens = q, np.concatenate([k, own_k], 2), np.concatenate([v, own_v], 2)
    operands = tuple(x.swapaxes(2, 3).reshape(len(x), x.shape[1] * x.shape[3], x.shape[2]) for x in tokens)
    if mask is not None:
        operands += (mask.reshape((1,) * (4 - mask.ndim) + mask.shape).swapaxes(2, 3),)
    groups, width = k.shape[1], k.shape[3]
    return Attention(op.scale, (width,) * groups, (v.shape[3],) * groups, q.shape[1] // groups), operands


def softmax_of_keys(scores: Array) -> Array:
    """Softmax over dimension 1 of `[n, keys, queries]`; zeros where nothing but minus infinity stands."""
    top = scores.max(1, keepdims=True)
    e = np.exp(scores - np.where(top == -np.inf, 0, top))
    total = e.sum(1, keepdims=True)
    return e / np.where(total == 0, 1, total)


@meaning.register
def _(op: Softmax, _shape: Shape, _params: Params, x: Array) -> Array:
    e = np.exp(x - x.max(op.dim, keepdims=True))
    return e / e.sum(op.dim, keepdims=True)


@meaning.register
def _(op: Pad, shape: Shape, _params: Params, x: Array) -> Array:
    out = np.full(shape, op.value, x.dtype)
    source, target = [], []
    for before, n, m in zip(op.before, x.shape, shape, strict=True):
        kept = max(0, min(n, m - before) - max(0, -before))
        source.append(slice(max(0, -before), max(0, -before) + kept))
        target.append(slice(max(0, before), max(0, before) + kept))
    out[tuple(target)] = x[tuple(source)]
    return out


@meaning.register
def _(op: Slice, shape: Shape, _params: Params, x: Array) -> Array:
    cuts = zip(op.start, op.step, shape, strict=True)
    return x[tuple(slice(start, start + step * (n - 1) + 1 if n else start, step) for start, step, n in cuts)]


_erf = np.vectorize(math.erf, otypes=[np.float64])


def activate(activation: Activation | None, x: Array) -> Array:
    """Apply an activation; None is the identity. NaN stays NaN: np.maximum and np.clip propagate it."""
    if activation is None:
        return x
    match activation.kind:
        case "relu":
            return np.maximum(x, 0)
        case "clamp":
            return np.minimum(np.maximum(x, activation.low), activation.high)
        case "leaky_relu":
            return np.maximum(x, 0) + activation.slope * np.minimum(x, 0)
        case "silu":
            return x * _sigmoid(x)
        case "hardswish":
            return x * np.clip(x + 3, 0, 6) / 6
        case "hardsigmoid":
            return np.clip(x + 3, 0, 6) / 6
        case "sigmoid":
            return _sigmoid(x)
        case "tanh":
            return np.tanh(x)
        case "gelu":
            return x * 0.5 * (1 + _erf(x * math.sqrt(0.5)).astype(x.dtype))
        case "gelu_tanh":
            return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        case "erf":
            return _erf(x).astype(x.dtype)
        case "exp":
            return np.exp(x)
        case "cos":
            return np.cos(x)
        case "sin":
            return np.sin(x)
        case "sqrt":
            return np.sqrt(x)
        case "rsqrt":
            return 1 / np.sqrt(x)
        case "reciprocal":
            return 1 / x
        case "not_zero":
            return (x != 0).astype(x.dtype)


def adaptive_windows(n: int, m: int) -> list[tuple[int, int]]:
    """First and one past the last input pixel of each of `m` adaptive windows over `n` pixels."""
    return [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


def source_pixels(op: Upsample, n: int, m: int, step: float) -> tuple[Array, Array, Array]:
    """For `m` outputs over `n` inputs: lower neighbour, upper neighbour, weight of the upper (int, int, fp32).

    Positions are computed in fp32, operation by operation as torch does, because a floor decides.
    """
    out, step32 = np.arange(m, dtype=np.float32), np.float32(step)
    if op.mode == "nearest":
        low = np.minimum(np.floor(out * step32).astype(np.int64), n - 1)
        return low, low, np.zeros(m, np.float32)
    half = np.float32(0.5)
    source = out * step32 if op.align_corners else np.maximum(step32 * (out + half) - half, np.float32(0))
    low = np.minimum(source.astype(np.int64), n - 1)
    return low, np.minimum(low + 1, n - 1), np.clip(source - low.astype(np.float32), 0, 1)


def _sigmoid(x: Array) -> Array:
    # One side each, so that exp never overflows.
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _scale_and_shift(x: Array, params: Params, scale: str | None, shift: str | None, axis: int) -> Array:
    along = (-1, *[1] * (x.ndim - 2)) if axis == 1 else (-1,)
    x = x if scale is None else x * params[scale].reshape(along)
    return x if shift is None else x + params[shift].reshape(along)


def _padded(x: Array, padding: Padding, value: float = 0.0) -> Array:
    spatial = zip(padding[: x.ndim - 2], padding[x.ndim - 2 :], strict=True)
    return np.pad(x, ((0, 0), (0, 0), *spatial), constant_values=value)


def _window(x: Array, tap: tuple[int, ...], shape: Shape, stride: Sizes, dilation: Sizes) -> Array:
    """The pixels that one tap of a window reads, for every output position."""
    first = (t * d for t, d in zip(tap, dilation, strict=True))
    cuts = zip(first, shape[2:], stride, strict=True)
    return x[(..., *(slice(f, f + s * (n - 1) + 1, s) for f, n, s in cuts))]
