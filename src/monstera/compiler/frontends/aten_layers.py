"""Torch operators with weights, windows or a whole dimension to sum over."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.ir import (
    AdaptivePool,
    Affine,
    AvgPool,
    Conv,
    Linear,
    MaxPool,
    Mean,
    Softmax,
    Upsample,
)
from monstera.compiler.ir.ops import Padding, Pair


def _conv2d(build: Builder, call: Call) -> Value:
    x = _batched(build, call["input"])
    weight = build.known(call["weight"], "the weight")
    kernel, dilation = (weight.shape[2], weight.shape[3]), call.pair("dilation")
    op = Conv(
        weight=build.param(weight, "weight"),
        bias=_optional_param(build, call, "bias"),
        stride=call.pair("stride"),
        padding=_conv_padding(call, kernel, dilation),
        dilation=dilation,
        groups=call["groups"],
    )
    return build.add(op, (x,), call.shape)


def _conv_padding(call: Call, kernel: Pair, dilation: Pair) -> Padding:
    if call["padding"] == "valid":
        return (0, 0, 0, 0)
    if call["padding"] == "same":
        # An odd total leaves the larger half at the bottom and right, as torch does.
        (v, h) = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        return (v // 2, h // 2, v - v // 2, h - h // 2)
    top, left = call.pair("padding")
    return (top, left, top, left)


def _linear(build: Builder, call: Call) -> Value:
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


def _max_pool2d(build: Builder, call: Call) -> Value:
    x = _batched(build, call["self"])
    kernel, stride, dilation = call.pair("kernel_size"), _pool_stride(call), call.pair("dilation")
    padding = _pool_padding(build.shape(x), call, kernel, stride, dilation)
    return build.add(MaxPool(kernel, stride, padding, dilation), (x,), call.shape)


def _avg_pool2d(build: Builder, call: Call) -> Value:
    x = _batched(build, call["self"])
    kernel, stride = call.pair("kernel_size"), _pool_stride(call)
    padding = _pool_padding(build.shape(x), call, kernel, stride, (1, 1))
    factor = build.param(_pool_factor(build.shape(x), call, kernel, stride), "factor")
    return build.add(AvgPool(kernel, stride, padding, factor), (x,), call.shape)


def _pool_stride(call: Call) -> Pair:
    return call.pair("stride") if call["stride"] else call.pair("kernel_size")


def _pool_padding(x: tuple[int, ...], call: Call, kernel: Pair, stride: Pair, dilation: Pair) -> Padding:
    """As much padding below and to the right as the last windows read: ceil_mode asks for more than the call says."""
    top, left = call.pair("padding")
    ends = [
        max(0, s * (m - 1) + d * (k - 1) + 1 - n - p)
        for n, m, k, s, d, p in zip(x[2:], call.shape[2:], kernel, stride, dilation, (top, left), strict=True)
    ]
    return (top, left, ends[0], ends[1])


def _pool_factor(x: tuple[int, ...], call: Call, kernel: Pair, stride: Pair) -> np.ndarray:
    """The reciprocal of torch's divisor, `[out_h, out_w]`; 0 where a window lies outside the plane."""
    counts = []
    for n, m, k, s, p in zip(x[2:], call.shape[2:], kernel, stride, call.pair("padding"), strict=True):
        first = s * np.arange(m) - p
        # The divisor counts the padding that the call asks for, never what ceil_mode adds.
        last = np.minimum(first + k, n + p)
        inside = np.minimum(last, n) - np.maximum(first, 0)
        counts.append((last - first if call["count_include_pad"] else inside, inside > 0))
    (rows, rows_in), (columns, columns_in) = counts
    divisor = np.multiply.outer(rows, columns).astype(np.float64)
    if call["divisor_override"]:
        divisor = np.full(divisor.shape, float(call["divisor_override"]))
    inside = np.logical_and.outer(rows_in, columns_in)
    return np.where(inside, 1 / np.where(inside, divisor, 1), 0)


def _adaptive_avg_pool2d(build: Builder, call: Call) -> Value:
    x = _batched(build, call["self"])
    if build.shape(x) == call.shape:
        return x
    if call.shape[2:] == (1, 1):
        return build.add(Mean(), (x,), call.shape)
    kernel = _even_windows(build.shape(x), call.shape)
    if kernel is None:
        return build.add(AdaptivePool("mean"), (x,), call.shape)
    factor = build.param(np.full(call.shape[2:], 1 / (kernel[0] * kernel[1])), "factor")
    return build.add(AvgPool(kernel, kernel, (0, 0, 0, 0), factor), (x,), call.shape)


def _adaptive_max_pool2d(build: Builder, call: Call) -> tuple[Value, ...]:
    x = _batched(build, call["self"])
    kernel = _even_windows(build.shape(x), call.shape)
    op = AdaptivePool("max") if kernel is None else MaxPool(kernel, kernel)
    return (build.add(op, (x,), call.shape),)


def _even_windows(x: tuple[int, ...], y: tuple[int, ...]) -> Pair | None:
    """The window of an ordinary pool that does the same, where the sizes divide."""
    if x[2] % y[2] or x[3] % y[3]:
        return None
    return (x[2] // y[2], x[3] // y[3])


def _mean(build: Builder, call: Call) -> Value:
    x, dims = call["self"], call.args.get("dim")
    rank = len(build.shape(x))
    spatial = rank == 4 and sorted(d % rank for d in dims or ()) == [2, 3]
    if not spatial:
        raise UnsupportedError(f"mean over dimensions {dims} of {rank}; only 2 and 3 of 4 are supported")
    return build.add(Mean(), (x,), call.shape)


def _softmax(build: Builder, call: Call) -> Value:
    return build.add(Softmax(call["dim"] % len(call.shape)), (call["self"],), call.shape)


def _upsample_nearest2d(build: Builder, call: Call) -> Value:
    return build.add(Upsample("nearest", _steps(build, call)), (call["input"],), call.shape)


def _upsample_bilinear2d(build: Builder, call: Call) -> Value:
    align = call["align_corners"]
    return build.add(Upsample("bilinear", _steps(build, call), align), (call["input"],), call.shape)


def _steps(build: Builder, call: Call) -> tuple[float, float]:
    """Input pixels per output pixel, computed in fp32."""
    sizes = zip(build.shape(call["input"])[2:], call.shape[2:], call["scale_factors"] or (None, None), strict=True)
    step = _corner_step if call.args.get("align_corners") else _pixel_step
    # Only nearest neighbours take a detour where a size doubles.
    detour = call.op == "upsample_nearest2d"
    steps = [np.float32(0.5) if detour and m == 2 * n else step(n, m, scale) for n, m, scale in sizes]
    return (float(steps[0]), float(steps[1]))


def _corner_step(n: int, m: int, _scale: float | None) -> np.float32:
    return np.float32(n - 1) / np.float32(m - 1) if m > 1 else np.float32(0)


def _pixel_step(n: int, m: int, scale: float | None) -> np.float32:
    """A given scale factor beats the sizes, unless the size does not change."""
    return np.float32(1 / scale) if scale and n != m else np.float32(n) / np.float32(m)


def _batched(build: Builder, x: Value) -> Value:
    if len(build.shape(x)) != 4:
        raise UnsupportedError(f"the input has shape {build.shape(x)}; expected [batch, channels, height, width]")
    return x


def _optional_param(build: Builder, call: Call, name: str) -> str | None:
    return None if call[name] is None else build.param(build.known(call[name], f"the {name}"), name)


def _array(build: Builder, call: Call, name: str) -> np.ndarray:
    return build.known(call[name], name).detach().to("cpu", torch.float64).numpy()


LAYERS: Mapping[str, Callable[[Builder, Call], Value | tuple[Value, ...]]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": lambda build, call: (_batch_norm(build, call),),
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "adaptive_max_pool2d": _adaptive_max_pool2d,
    "mean": _mean,
    "softmax": _softmax,
    "_softmax": _softmax,
    "upsample_nearest2d": _upsample_nearest2d,
    "upsample_bilinear2d": _upsample_bilinear2d,
}
