"""Products of matrices in ONNX: by a weight, whose holes are left out, or of two computed tensors."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch

from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.onnx_call import Rule
from monstera.compiler.ir import Add, Linear, MatMul, Shape


def _gemm(build: Builder, call: Call) -> Value:
    a, b, c = call["A"], call["B"], call["C"]
    bias = None
    if isinstance(b, torch.Tensor):
        a = _turned(build, a) if call["transA"] else a
        if isinstance(c, torch.Tensor) and (c.ndim < 2 or c.shape[0] == 1):
            c, bias = None, build.times(c, call["beta"])
            # A bias that has its shape already keeps its name.
            bias = bias if bias.shape == call.shape[1:] else bias.broadcast_to((1, call.shape[1])).reshape(-1)
        y = _by_filters(build, a, build.times(b if call["transB"] else b.T, call["alpha"]), call.shape, bias)
    elif isinstance(a, torch.Tensor):
        b = _turned(build, b) if call["transB"] else b
        y = _by_rows(build, build.times(a.T if call["transA"] else a, call["alpha"]), b, call.shape)
    else:
        a, b = _turned(build, a) if call["transA"] else a, _turned(build, b) if call["transB"] else b
        y = build.times(build.add(MatMul(), (a, b), call.shape), call["alpha"])
    if c is None:
        return y
    return build.add(Add(), (y, build.times(c, call["beta"])), call.shape)


def _matmul(build: Builder, call: Call) -> Value:
    a, b = call["A"], call["B"]
    if isinstance(b, torch.Tensor) and (b.ndim == 1 or prod(b.shape[:-2]) == 1):
        matrix = b.reshape(-1, 1) if b.ndim == 1 else b.reshape(b.shape[-2:])
        return _by_filters(build, a, matrix.T, call.shape)
    if isinstance(a, torch.Tensor) and a.ndim <= 2 <= len(build.shape(b)):
        return _by_rows(build, a.reshape(-1, a.shape[-1]), b, call.shape)
    # A vector is a row in front, a column behind.
    a = build.reshaped(a, (1, *build.shape(a))) if len(build.shape(a)) == 1 else a
    b = build.reshaped(b, (*build.shape(b), 1)) if len(build.shape(b)) == 1 else b
    (*batch_a, rows, _), (*batch_b, _, columns) = build.shape(a), build.shape(b)
    batch = torch.broadcast_shapes(tuple(batch_a), tuple(batch_b))
    return build.reshaped(build.add(MatMul(), (a, b), (*batch, rows, columns)), call.shape)


def _by_filters(
    build: Builder, x: Value, filters: torch.Tensor, shape: Shape, bias: torch.Tensor | None = None
) -> Value:
    """`x @ filters.T + bias`, brought to a shape."""
    op = Linear(build.param(filters, "weight"), None if bias is None else build.param(bias, "bias"))
    return build.reshaped(build.add(op, (x,), (*build.shape(x)[:-1], filters.shape[0])), shape)


def _by_rows(build: Builder, rows: torch.Tensor, x: Value, shape: Shape) -> Value:
    """`rows @ x`: its transpose is `x` transposed by the same filters."""
    columns = _turned(build, x)
    y = build.add(Linear(build.param(rows, "weight")), (columns,), (*build.shape(columns)[:-1], rows.shape[0]))
    return build.reshaped(_turned(build, y), shape)


def _turned(build: Builder, x: Value) -> Value:
    """The last two dimensions exchanged."""
    rank = len(build.shape(x))
    return build.permuted(x, (*range(rank - 2), rank - 1, rank - 2))


PRODUCTS: Mapping[str, Rule] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
}
