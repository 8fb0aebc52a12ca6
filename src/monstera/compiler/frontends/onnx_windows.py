"""ONNX operators that look at windows of pixels and have no weights: pooling and resizing, in 1 to 3 dimensions."""

from __future__ import annotations

from collections.abc import Mapping

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
    read = aten_windows.read_padding(sizes, out, pads[:rank], kernel, stride, dilation)
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
    factor = aten_windows.window_factor(sizes, out, pads, kernel, stride, padded=bool(call["count_include_pad"]))
    read = aten_windows.read_padding(sizes, out, pads[:rank], kernel, stride, dilation)
    op = AvgPool(kernel, stride, read, build.param(factor, "factor"))
    return build.add(op, (x,), (*call.shape[:2], *out))


def _started(sizes: Sizes, out: Sizes, pads: Padding, stride: Sizes) -> Sizes:
    """Without the last window, which ceil_mode adds, where it would start behind the pixels.

    Opset 22 is the first to say so, and onnx infers shapes by the letter; engines and exporters left it out before.
    """
    ends = zip(sizes, out, pads, stride, strict=False)
    return tuple(m - 1 if (m - 1) * s >= n + before else m for n, m, before, s in ends)


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
