"""ONNX operators that look at windows of pixels and have no weights: pooling and resizing, in 1 to 3 dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np

from monstera.compiler.frontends import aten_windows
from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.frontends.onnx_call import Rule, image, padding, spatial
from monstera.compiler.frontends.onnx_resize import resize
from monstera.compiler.ir import AvgPool, MaxPool
from monstera.compiler.ir.ops import Padding, Sizes

_TORCH = aten_windows.WINDOWS


def _max_pool(build: Builder, call: Call) -> Value:
    x, rank = image(build, call)
    kernel, stride, dilation = (spatial(call, name, rank) for name in ("kernel_shape", "strides", "dilations"))
    sizes = build.shape(x)[2:]
    pads = padding(call, sizes, kernel, stride, dilation)
    out = _started(sizes, call.shape[2:], pads, stride)
    read = _read(sizes, out, pads, kernel, stride, dilation)
    return build.add(MaxPool(kernel, stride, read, dilation), (x,), (*call.shape[:2], *out))


def _avg_pool(build: Builder, call: Call) -> Value:
    x, rank = image(build, call)
    kernel, stride = spatial(call, "kernel_shape", rank), spatial(call, "strides", rank)
    # Windows with gaps came with opset 19.
    dilation = spatial(call, "dilations", rank)
    if dilation != (1,) * rank:
        raise UnsupportedError(f"a mean over windows with gaps (dilations {list(dilation)})")
    sizes = build.shape(x)[2:]
    pads = padding(call, sizes, kernel, stride, dilation)
    out = _started(sizes, call.shape[2:], pads, stride)
    factor = _factor(sizes, out, pads, kernel, stride, bool(call["count_include_pad"]))
    read = _read(sizes, out, pads, kernel, stride, dilation)
    op = AvgPool(kernel, stride, read, build.param(factor, "factor"))
    return build.add(op, (x,), (*call.shape[:2], *out))


def _started(sizes: Sizes, out: Sizes, pads: Padding, stride: Sizes) -> Sizes:
    """Without the last window, which ceil_mode adds, where it would start behind the pixels.

    Opset 22 is the first to say so, and onnx infers shapes by the letter; engines and exporters left it out before.
    """
    ends = zip(sizes, out, pads, stride, strict=False)
    return tuple(m - 1 if (m - 1) * s >= n + before else m for n, m, before, s in ends)


def _read(sizes: Sizes, out: Sizes, pads: Padding, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Padding:
    """As much padding after as the last windows read: ceil_mode asks for more than the model says."""
    before = pads[: len(sizes)]
    after = (
        max(0, s * (m - 1) + d * (k - 1) + 1 - n - p)
        for n, m, k, s, d, p in zip(sizes, out, kernel, stride, dilation, before, strict=True)
    )
    return (*before, *after)


def _factor(sizes: Sizes, out: Sizes, pads: Padding, kernel: Sizes, stride: Sizes, padded: bool) -> np.ndarray:
    """The reciprocal of the pixels that each window counts; padding that only ceil_mode adds is never counted."""
    counts, inside = [], []
    ends = zip(pads[: len(sizes)], pads[len(sizes) :], strict=True)
    for n, m, k, s, (before, after) in zip(sizes, out, kernel, stride, ends, strict=True):
        first = s * np.arange(m) - before
        last = np.minimum(first + k, n + after)
        pixels = np.minimum(last, n) - np.maximum(first, 0)
        counts.append(last - first if padded else pixels)
        inside.append(pixels > 0)
    some = reduce(np.logical_and.outer, inside)
    return np.where(some, 1 / np.where(some, reduce(np.multiply.outer, counts), 1), 0.0)


def _global_max(build: Builder, call: Call) -> Value:
    x, rank = image(build, call)
    op = f"adaptive_max_pool{rank}d"
    (result,) = _TORCH[op](build, Call(op, {"self": x}, call.shapes))
    return result


WINDOWS: Mapping[str, Rule] = {
    "MaxPool": _max_pool,
    "AveragePool": _avg_pool,
    "GlobalMaxPool": _global_max,
    "Resize": resize,
}
