"""ONNX operators with weights, and those that sum over a whole dimension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from monstera.compiler.frontends import aten_layers
from monstera.compiler.frontends.aten_sequences import SEQUENCES
from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.onnx_call import Rule, as_torch, axes, halves, image, integers, padding, spatial
from monstera.compiler.ir import Conv, Mean
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


def _layer_norm(build: Builder, call: Call) -> Value:
    normalized = call.shape[call["axis"] % len(call.shape) :]
    vectors = {
        # What has its shape already keeps its name.
        name: x if x is None or build.shape(x) == normalized else build.known(x, name).broadcast_to(normalized)
        for name, x in (("weight", call["Scale"]), ("bias", call["B"]))
    }
    given = {"input": call["X"], "normalized_shape": normalized, "eps": call["epsilon"], **vectors}
    return SEQUENCES["layer_norm"](build, replace(call, op="layer_norm", args=given))


def _reduce_mean(build: Builder, call: Call) -> Value:
    dims = _reduced(build, call)
    return build.add(Mean(dims), (call["data"],), call.shape) if dims else call["data"]


def _reduce_sum(build: Builder, call: Call) -> Value | tuple[Value, ...]:
    dims = _reduced(build, call)
    if not dims:
        return call["data"]
    given = {"self": call["data"], "dim": dims}
    return _TORCH["sum"](build, replace(call, op="sum", args=given, dtypes={"self": call.dtypes["data"]}))


def _reduced(build: Builder, call: Call) -> Sizes:
    """The dimensions that are summed over, in order; none where the call asks for nothing."""
    rank = len(build.shape(call["data"]))
    dims = axes(call, rank)
    if not dims and call.args.get("noop_with_empty_axes"):
        return ()
    return tuple(sorted(dims or range(rank)))


def _global_mean(build: Builder, call: Call) -> Value:
    return build.add(Mean(tuple(range(2, len(call.shape)))), (call["X"],), call.shape)


LAYERS: Mapping[str, Rule] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
    "GlobalAveragePool": _global_mean,
    "Softmax": as_torch(_TORCH, "softmax", self="input", dim="axis"),
}
