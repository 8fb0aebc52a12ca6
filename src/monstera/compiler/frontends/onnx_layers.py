"""ONNX operators with weights, and those that sum over a whole dimension."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch

from monstera.compiler.frontends import aten_layers
from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.frontends.onnx_call import Rule, as_torch, axes, halves, image, integers, padding, spatial
from monstera.compiler.ir import Add, Conv, Linear, Mean, Mul, Permute, Reshape, Shape
from monstera.compiler.ir.ops import Sizes

_TORCH = aten_layers.LAYERS


def _conv(build: Builder, call: Call) -> Value:
    x, rank = image(build, call)
    weight = build.known(call["W"], "the weight")
    stride, dilation = spatial(call, "strides", rank), spatial(call, "dilations", rank)
    op = Conv(
        weight=build.param(weight, "weight"),
        bias=None if call["B"] is None else build.param(build.known(call["B"], "the bias"), "bias"),
        stride=stride,
        padding=padding(call, build.shape(x)[2:], tuple(weight.shape[2:]), stride, dilation),
        dilation=dilation,
        groups=call["group"],
    )
    return build.add(op, (x,), call.shape)


def _conv_transpose(build: Builder, call: Call) -> Value | tuple[Value, ...]:
    x, rank = image(build, call)
    kernel = build.shape(call["W"])[2:]
    arguments = {
        "input": x,
        "weight": call["W"],
        "bias": call["B"],
        "stride": spatial(call, "strides", rank),
        # What is cut off behind follows from the shape.
        "padding": _cut_before(call, build.shape(x)[2:], kernel),
        "dilation": spatial(call, "dilations", rank),
        "groups": call["group"],
    }
    op = f"conv_transpose{rank}d"
    return _TORCH[op](build, Call(op, arguments, call.shapes))


def _cut_before(call: Call, sizes: Sizes, kernel: Sizes) -> Sizes:
    rank = len(sizes)
    if not integers(call, "output_shape") and call["auto_pad"] in ("NOTSET", "VALID"):
        return (integers(call, "pads") or (0,) * rank)[:rank]
    stride, dilation = spatial(call, "strides", rank), spatial(call, "dilations", rank)
    extra = integers(call, "output_padding") or (0,) * rank
    total = [
        s * (n - 1) + e + (k - 1) * d + 1 - m
        for n, m, k, s, d, e in zip(sizes, call.shape[2:], kernel, stride, dilation, extra, strict=True)
    ]
    return halves([max(0, t) for t in total], call["auto_pad"])[:rank]


def _gemm(build: Builder, call: Call) -> Value:
    a, b, c = call["A"], call["B"], call["C"]
    bias = None
    if isinstance(b, torch.Tensor):
        a = _turned(build, a) if call["transA"] else a
        if isinstance(c, torch.Tensor) and (c.ndim < 2 or c.shape[0] == 1):
            c, bias = None, _scaled(c, call["beta"])
            # A bias that has its shape already keeps its name.
            bias = bias if bias.shape == call.shape[1:] else bias.broadcast_to((1, call.shape[1])).reshape(-1)
        y = _by_filters(build, a, _scaled(b if call["transB"] else b.T, call["alpha"]), call.shape, bias)
    elif isinstance(a, torch.Tensor):
        b = _turned(build, b) if call["transB"] else b
        y = _by_rows(build, _scaled(a.T if call["transA"] else a, call["alpha"]), b, call.shape)
    else:
        raise UnsupportedError("a product of two tensors that are computed from the input")
    if c is None:
        return y
    if isinstance(c, torch.Tensor):
        c = _scaled(c, call["beta"])
    elif call["beta"] != 1:
        c = build.add(Mul(), (c, torch.tensor(call["beta"])), build.shape(c))
    return build.add(Add(), (y, c), call.shape)


def _matmul(build: Builder, call: Call) -> Value:
    a, b = call["A"], call["B"]
    if isinstance(b, torch.Tensor):
        matrix = b.reshape(-1, 1) if b.ndim == 1 else b.reshape(b.shape[-2:]) if prod(b.shape[:-2]) == 1 else b
        if matrix.ndim > 2:
            raise UnsupportedError(f"the weight has shape {tuple(b.shape)}; expected one matrix for the whole batch")
        return _by_filters(build, a, matrix.T, call.shape)
    if isinstance(a, torch.Tensor):
        if a.ndim > 2 or len(build.shape(b)) < 2:
            raise UnsupportedError(f"a product of shapes {tuple(a.shape)} and {build.shape(b)}; expected matrices")
        return _by_rows(build, a.reshape(-1, a.shape[-1]), b, call.shape)
    raise UnsupportedError("a product of two tensors that are computed from the input")


def _by_filters(
    build: Builder, x: Value, filters: torch.Tensor, shape: Shape, bias: torch.Tensor | None = None
) -> Value:
    """`x @ filters.T + bias`, brought to a shape."""
    op = Linear(build.param(filters, "weight"), None if bias is None else build.param(bias, "bias"))
    return _shaped(build, build.add(op, (x,), (*build.shape(x)[:-1], filters.shape[0])), shape)


def _by_rows(build: Builder, rows: torch.Tensor, x: Value, shape: Shape) -> Value:
    """`rows @ x`: its transpose is `x` transposed by the same filters."""
    columns = _turned(build, x)
    y = build.add(Linear(build.param(rows, "weight")), (columns,), (*build.shape(columns)[:-1], rows.shape[0]))
    return _shaped(build, _turned(build, y), shape)


def _shaped(build: Builder, x: Value, shape: Shape) -> Value:
    return x if build.shape(x) == shape else build.add(Reshape(), (x,), shape)


def _turned(build: Builder, x: Value) -> Value:
    """The last two dimensions exchanged."""
    *batch, m, n = build.shape(x)
    dims = (*range(len(batch)), len(batch) + 1, len(batch))
    return build.add(Permute(dims), (x,), (*batch, n, m))


def _scaled(x: torch.Tensor, factor: float) -> torch.Tensor:
    return x if factor == 1 else x * factor


def _batch_norm(build: Builder, call: Call) -> Value | tuple[Value, ...]:
    arguments = {
        "input": call["X"],
        "weight": call["scale"],
        "bias": call["B"],
        # The statistics have another name since opset 14.
        "running_mean": call.args.get("input_mean", call.args.get("mean")),
        "running_var": call.args.get("input_var", call.args.get("var")),
        "eps": call["epsilon"],
        "training": call.args.get("training_mode"),
    }
    return _TORCH["batch_norm"](build, Call("batch_norm", arguments, call.shapes))


def _reduce_mean(build: Builder, call: Call) -> Value:
    rank = len(build.shape(call["data"]))
    dims = axes(call, rank)
    if not dims and call.args.get("noop_with_empty_axes"):
        return call["data"]
    return build.add(Mean(tuple(sorted(dims or range(rank)))), (call["data"],), call.shape)


def _global_mean(build: Builder, call: Call) -> Value:
    return build.add(Mean(tuple(range(2, len(call.shape)))), (call["X"],), call.shape)


LAYERS: Mapping[str, Rule] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "ReduceMean": _reduce_mean,
    "GlobalAveragePool": _global_mean,
    "Softmax": as_torch(_TORCH, "softmax", self="input", dim="axis"),
}
