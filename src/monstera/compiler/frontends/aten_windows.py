"""Torch operators that look at windows of pixels and have no weights: pooling, resizing, patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from math import prod

import numpy as np

from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.ir import AdaptivePool, AvgPool, MaxPool, Mean, Shape, Upsample
from monstera.compiler.ir.ops import Padding, Sizes


def _max_pool(build: Builder, call: Call) -> Value:
    x, rank = build.image(call, "self")
    kernel, stride, dilation = call.sizes("kernel_size", rank), _stride(call, rank), call.sizes("dilation", rank)
    sizes, out, before = build.shape(x)[2:], call.shape[2:], call.sizes("padding", rank)
    padding = read_padding(sizes, out, before, kernel, stride, dilation)
    return build.add(MaxPool(kernel, stride, padding, dilation), (x,), call.shape)


def _avg_pool(build: Builder, call: Call) -> Value:
    x, rank = build.image(call, "self")
    kernel, stride = call.sizes("kernel_size", rank), _stride(call, rank)
    sizes, out, before = build.shape(x)[2:], call.shape[2:], call.sizes("padding", rank)
    padding = read_padding(sizes, out, before, kernel, stride, (1,) * rank)
    factor = window_factor(sizes, out, before * 2, kernel, stride, padded=call["count_include_pad"])
    if divisor := call.args.get("divisor_override"):
        factor = np.where(factor > 0, 1 / divisor, 0.0)
    return build.add(AvgPool(kernel, stride, padding, build.param(factor, "factor")), (x,), call.shape)


def _stride(call: Call, rank: int) -> Sizes:
    return call.sizes("stride" if call["stride"] else "kernel_size", rank)


def read_padding(sizes: Sizes, out: Sizes, before: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Padding:
    """As much padding after as the last windows read: ceil_mode asks for more than the model says."""
    after = (
        max(0, s * (m - 1) + d * (k - 1) + 1 - n - p)
        for n, m, k, s, d, p in zip(sizes, out, kernel, stride, dilation, before, strict=True)
    )
    return (*before, *after)


def window_factor(sizes: Sizes, out: Sizes, pads: Padding, kernel: Sizes, stride: Sizes, *, padded: bool) -> np.ndarray:
    """The reciprocal of the pixels that each window counts, of the output's spatial shape; 0 where it lies outside.

    Padding counts if `padded`: that which the model asks for, never what only ceil_mode adds.
    """
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


def _adaptive_avg_pool(build: Builder, call: Call) -> Value:
    x, rank = build.image(call, "self")
    if build.shape(x) == call.shape:
        return x
    if prod(call.shape[2:]) == 1:
        return build.add(Mean(tuple(range(2, 2 + rank))), (x,), call.shape)
    kernel = _even_windows(build.shape(x), call.shape)
    if kernel is None:
        return build.add(AdaptivePool("mean"), (x,), call.shape)
    factor = build.param(np.full(call.shape[2:], 1 / prod(kernel)), "factor")
    return build.add(AvgPool(kernel, kernel, (0,) * 2 * rank, factor), (x,), call.shape)


def _adaptive_max_pool(build: Builder, call: Call) -> tuple[Value, ...]:
    x, rank = build.image(call, "self")
    kernel = _even_windows(build.shape(x), call.shape)
    op = AdaptivePool("max") if kernel is None else MaxPool(kernel, kernel, (0,) * 2 * rank, (1,) * rank)
    return (build.add(op, (x,), call.shape),)


def _even_windows(x: Shape, y: Shape) -> Sizes | None:
    """The window of an ordinary pool that does the same, where the sizes divide."""
    if any(n % m for n, m in zip(x[2:], y[2:], strict=True)):
        return None
    return tuple(n // m for n, m in zip(x[2:], y[2:], strict=True))


def _im2col(build: Builder, call: Call) -> Value:
    """Patches that touch but do not overlap: what lies in a patch becomes channels."""
    n, channels, height, width = build.shape(call["self"])
    (kh, kw), (rows, columns) = _patch(call, (height, width))
    blocks = build.reshaped(call["self"], (n * channels, rows, kh, columns, kw))
    return build.reshaped(build.permuted(blocks, (0, 2, 4, 1, 3)), call.shape)


def _col2im(build: Builder, call: Call) -> Value:
    n, channels, height, width = call.shape
    (kh, kw), (rows, columns) = _patch(call, (height, width))
    patches = build.reshaped(call["self"], (n * channels, kh, kw, rows, columns))
    return build.reshaped(build.permuted(patches, (0, 3, 1, 4, 2)), call.shape)


def _patch(call: Call, image: Sizes) -> tuple[Sizes, Sizes]:
    """The size of a patch, and how many there are."""
    kernel, stride, padding, dilation = (
        call.sizes(name, 2) for name in ("kernel_size", "stride", "padding", "dilation")
    )
    if stride != kernel or any(padding) or dilation != (1, 1) or any(n % k for n, k in zip(image, kernel, strict=True)):
        raise UnsupportedError(
            f"patches of {kernel} every {stride} pixels of {image}, padding {padding}, dilation {dilation}; "
            "expected patches that touch, do not overlap, and cover the image"
        )
    return kernel, tuple(n // k for n, k in zip(image, kernel, strict=True))


def _upsample_nearest(build: Builder, call: Call) -> Value:
    steps = _steps(build, call, _nearest_image_step if call.op == "upsample_nearest2d" else _nearest_step)
    return build.add(Upsample("nearest", steps), (call["input"],), call.shape)


def _upsample_linear(build: Builder, call: Call) -> Value:
    align = call["align_corners"]
    steps = _steps(build, call, _corner_step if align else _linear_step)
    return build.add(Upsample("linear", steps, align), (call["input"],), call.shape)


_Step = Callable[[int, int, "float | None"], np.float32]


def _steps(build: Builder, call: Call, step: _Step) -> tuple[float, ...]:
    """Input pixels per output pixel, computed in fp32, for every dimension."""
    x, rank = build.image(call, "input")
    scales = call["scale_factors"] or (None,) * rank
    sizes = zip(build.shape(x)[2:], call.shape[2:], scales, strict=True)
    return tuple(float(step(n, m, scale)) for n, m, scale in sizes)


def _nearest_step(n: int, m: int, scale: float | None) -> np.float32:
    """A given scale factor beats the sizes."""
    return np.float32(1 / scale) if scale else np.float32(n) / np.float32(m)


def _nearest_image_step(n: int, m: int, scale: float | None) -> np.float32:
    """Images alone are looked at for sizes that stay or double."""
    return np.float32(n / m) if m in (n, 2 * n) else _nearest_step(n, m, scale)


def _linear_step(n: int, m: int, scale: float | None) -> np.float32:
    """A given scale factor beats the sizes, unless the size does not change."""
    return np.float32(1) if n == m else _nearest_step(n, m, scale)


def _corner_step(n: int, m: int, _scale: float | None) -> np.float32:
    return np.float32(n - 1) / np.float32(m - 1) if m > 1 else np.float32(0)


WINDOWS: Mapping[str, Callable[[Builder, Call], Value | tuple[Value, ...]]] = {
    **{f"max_pool{k}d": _max_pool for k in (1, 2, 3)},
    **{f"avg_pool{k}d": _avg_pool for k in (1, 2, 3)},
    **{f"adaptive_avg_pool{k}d": _adaptive_avg_pool for k in (1, 2, 3)},
    **{f"adaptive_max_pool{k}d": _adaptive_max_pool for k in (1, 2, 3)},
    "im2col": _im2col,
    "col2im": _col2im,
    **{f"upsample_nearest{k}d": _upsample_nearest for k in (1, 2, 3)},
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"), _upsample_linear),
}
