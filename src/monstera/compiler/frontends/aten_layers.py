"""Torch operators with weights, and those that sum over a whole dimension."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod

import numpy as np
import torch

from monstera.compiler.frontends.aten_transposed import conv_transpose
from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.ir import Activate, Activation, Affine, Conv, Linear, Mean, Mul, Softmax
from monstera.compiler.ir.ops import Padding, Sizes


def _conv(build: Builder, call: Call) -> Value:
    x, rank = build.image(call, "input")
    weight = build.known(call["weight"], "the weight")
    dilation = call.sizes("dilation", rank)
    op = Conv(
        weight=build.param(weight, "weight"),
        bias=_optional_param(build, call, "bias"),
        stride=call.sizes("stride", rank),
        padding=_conv_padding(call, tuple(weight.shape[2:]), dilation),
        dilation=dilation,
        groups=call["groups"],
    )
    return build.add(op, (x,), call.shape)


def _conv_padding(call: Call, kernel: Sizes, dilation: Sizes) -> Padding:
    if call["padding"] == "valid":
        return (0,) * 2 * len(kernel)
    if call["padding"] == "same":
        # An odd total leaves the larger half behind, as torch does.
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return (*(t // 2 for t in total), *(t - t // 2 for t in total))
    return call.sizes("padding", len(kernel)) * 2


def _linear(build: Builder, call: Call) -> Value:
    if isinstance(call["weight"], str):
        raise UnsupportedError("a weight that is computed from the input; multiply by torch.matmul")
    weight = build.known(call["weight"], "the weight")
    if weight.ndim != 2:
        raise UnsupportedError(f"the weight has shape {tuple(weight.shape)}; expected [out, in]")
    op = Linear(build.param(weight, "weight"), _optional_param(build, call, "bias"))
    return build.add(op, (call["input"],), call.shape)


def _batch_norm(build: Builder, call: Call) -> Value:
    if call["running_mean"] is None or call["running_var"] is None:
        raise UnsupportedError("batch norm without running statistics (track_running_stats=False)")
    if call.args.get("training"):
        raise UnsupportedError("batch norm in training mode, although the model is in eval mode")
    mean, var = (_array(build, call, name) for name in ("running_mean", "running_var"))
    scale = 1 / np.sqrt(var + call["eps"])
    if call["weight"] is not None:
        scale = scale * _array(build, call, "weight")
    shift = -mean * scale
    if call["bias"] is not None:
        shift = shift + _array(build, call, "bias")
    op = Affine(build.param(scale, "scale"), build.param(shift, "shift"))
    return build.add(op, (call["input"],), call.shape)


def _mean(build: Builder, call: Call) -> Value:
    rank = len(build.shape(call["self"]))
    # No dimensions named are all of them.
    dims = sorted(d % rank for d in call.args.get("dim") or range(rank))
    return build.add(Mean(tuple(dims)), (call["self"],), call.shape)


def _sum(build: Builder, call: Call) -> Value:
    shape = build.shape(call["self"])
    dims = call.args.get("dim") or range(len(shape))
    count = prod(shape[d] for d in dims)
    if call.dtypes["self"].is_floating_point:
        return build.times(_mean(build, call), float(count))
    # Whole numbers are counted exactly: a mean of them would round.
    summed = sorted(d % len(shape) for d in dims)
    turned = build.permuted(call["self"], (*(d for d in range(len(shape)) if d not in summed), *summed))
    rows = build.reshaped(turned, (prod(call.shape), count))
    sums = build.add(Linear(build.param(torch.ones(1, count), "ones")), (rows,), (prod(call.shape), 1))
    return build.reshaped(sums, call.shape)


def _vector_norm(build: Builder, call: Call) -> Value:
    if call["ord"] != 2:
        raise UnsupportedError(f"the norm of order {call['ord']}; only the Euclidean one is supported")
    x = call["self"]
    squares = build.add(Mul(), (x, x), build.shape(x))
    total = _sum(build, replace(call, args={**call.args, "self": squares}))
    return build.add(Activate(Activation("sqrt")), (total,), call.shape)


def _softmax(build: Builder, call: Call) -> Value:
    return build.add(Softmax(call["dim"] % len(call.shape)), (call["self"],), call.shape)


def _optional_param(build: Builder, call: Call, name: str) -> str | None:
    return None if call[name] is None else build.param(build.known(call[name], f"the {name}"), name)


def _array(build: Builder, call: Call, name: str) -> np.ndarray:
    return build.known(call[name], name).detach().to("cpu", torch.float64).numpy()


LAYERS: Mapping[str, Callable[[Builder, Call], Value | tuple[Value, ...]]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), conv_transpose),
    "linear": _linear,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": lambda build, call: (_batch_norm(build, call),),
    "mean": _mean,
    "sum": _sum,
    "linalg_vector_norm": _vector_norm,
    "softmax": _softmax,
    "_softmax": _softmax,
}
