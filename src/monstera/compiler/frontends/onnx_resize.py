"""ONNX's Resize, as far as its coordinates are ones that the IR can say: their tables are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.frontends.onnx_call import axes, image
from monstera.compiler.ir import Upsample
from monstera.compiler.ir.interpreter import source_pixels

# Where output pixels lie on the input: from the pixel's number, both sizes and the scale (output by input).
# In fp32 and in this order of operations, as ONNX Runtime has it, since a floor decides.
_PLACES: Mapping[str, Callable[..., np.ndarray]] = {
    "half_pixel": lambda i, _n, _m, scale: (i + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda i, _n, m, scale: (i + 0.5) / scale - 0.5 if m > 1 else 0 * i,
    "half_pixel_symmetric": lambda i, n, m, scale: n / 2 * (1 - m / (scale * n)) + (i + 0.5) / scale - 0.5,
    "asymmetric": lambda i, _n, _m, scale: i / scale,
    "align_corners": lambda i, n, m, _scale: i * (n - 1) / max(1, m - 1),
}
_ROUND: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}
# How far two places may lie apart, in pixels.
_SAME = 1e-4


def resize(build: Builder, call: Call) -> Value:
    """Translate Resize over the spatial dimensions.

    Raises:
        UnsupportedError: batch or channels are resized too, or the pixels read are not those of the IR's `Upsample`.
    """
    x, _ = image(build, call)
    shape, scales = build.shape(x), _scales(build, call)
    out = call.shape
    if _given(build, call, "scales"):
        # Onnx infers floor(n * scale) in higher precision; engines multiply in fp32, where 10 times 2.1 is 21.
        out = tuple(int(np.float32(n) * np.float32(scales.get(d, 1))) for d, n in enumerate(shape))
    if shape[:2] != out[:2]:
        raise UnsupportedError(f"it resizes {shape} to {out}; batch and channels must stay")
    sizes = [(shape[d], out[d], scales.get(d, out[d] / shape[d])) for d in range(2, len(shape))]
    _check(call, sizes)
    for align_corners in (False, True):
        steps = [_step(call, Upsample(call["mode"], (), align_corners), *size) for size in sizes]
        if call["mode"] == "nearest" and align_corners:
            break
        if None not in steps:
            op = Upsample(call["mode"], tuple(step for step in steps if step is not None), align_corners)
            return build.add(op, (x,), out)
    rounding = f", nearest_mode {call['nearest_mode']!r}" if call["mode"] == "nearest" else ""
    raise UnsupportedError(
        f"mode {call['mode']!r} with coordinates {call['coordinate_transformation_mode']!r}{rounding} from "
        f"{shape[2:]} to {out[2:]} pixels: the compiler cannot read these pixels"
    )


def _check(call: Call, sizes: list[tuple[int, int, float]]) -> None:
    if call["mode"] not in ("nearest", "linear"):
        raise UnsupportedError(f"mode {call['mode']!r}; only 'nearest' and 'linear' are supported")
    if call["coordinate_transformation_mode"] == "align_corners" and _between(sizes):
        # Whether the corners are those of 2.4 pixels or of 2 is read in different ways.
        raise UnsupportedError(
            "coordinates 'align_corners' with scales that give no whole number of pixels; give sizes"
        )
    if call["coordinate_transformation_mode"] not in _PLACES:
        raise UnsupportedError(f"coordinates {call['coordinate_transformation_mode']!r}; known: {', '.join(_PLACES)}")
    if call["mode"] == "nearest" and call["nearest_mode"] not in _ROUND:
        raise UnsupportedError(f"nearest_mode {call['nearest_mode']!r}; known: {', '.join(_ROUND)}")
    if call.args.get("antialias"):
        raise UnsupportedError("antialias")


def _between(sizes: list[tuple[int, int, float]]) -> bool:
    return any(abs(n * scale - m) > _SAME for n, m, scale in sizes)


def _scales(build: Builder, call: Call) -> dict[int, float]:
    """Output by input for the dimensions of which the model says it, and not just sizes."""
    shape = build.shape(call["X"])
    dims = axes(call, len(shape)) or range(len(shape))
    if _given(build, call, "scales"):
        scales = build.known(call["scales"], "the list of scales").tolist()
        return dict(zip(dims, scales, strict=True))
    policy = call.args.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return {}
    sizes = build.known(call["sizes"], "the list of sizes").tolist()
    ratios = [size / shape[d] for d, size in zip(dims, sizes, strict=True)]
    return dict.fromkeys(dims, float(min(ratios) if policy == "not_larger" else max(ratios)))


def _given(build: Builder, call: Call, name: str) -> bool:
    """Whether a list is there: one left out may be an empty one."""
    return call[name] is not None and build.shape(call[name]) != (0,)


def _step(call: Call, op: Upsample, n: int, m: int, scale: float) -> float | None:
    """The step with which an operator of the IR reads the pixels of the model in one dimension, if there is one."""
    by_scale = np.float32(1) / np.float32(scale)
    # Where a place is a whole number, dividing by the scale may reach it and multiplying by its reciprocal may not.
    steps = (by_scale, n / m, (n - 1) / max(1, m - 1), np.nextafter(by_scale, np.float32(np.inf)))
    return next((float(np.float32(step)) for step in steps if _same(call, op, n, m, scale, np.float32(step))), None)


def _same(call: Call, op: Upsample, n: int, m: int, scale: float, step: np.float32) -> bool:
    """Whether the model and an operator of the IR read one dimension alike."""
    low, high, fraction = source_pixels(op, n, m, float(step))
    if n == m and scale == 1:
        # Nothing is resized, whatever the coordinates are called.
        places = np.arange(m, dtype=np.float32)
    else:
        places = _PLACES[call["coordinate_transformation_mode"]](
            np.arange(m, dtype=np.float32), np.float32(n), np.float32(m), np.float32(scale)
        )
        if call["mode"] == "nearest":
            places = _ROUND[call["nearest_mode"]](places)
    return bool((np.abs(np.clip(places, 0, n - 1) - (low + (high - low) * fraction)) < _SAME).all())
