"""Torch operators that only move values: shape, order, joins, cuts, padding; and those that do nothing in inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import torch

from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.ir import Concat, DepthToSpace, Mul, Pad, Permute, Reshape, Shape, Slice


def _same(_build: Builder, call: Call) -> Value:
    return call["self"]


def _dropout(_build: Builder, call: Call) -> Value:
    if call["train"]:
        raise UnsupportedError(
            "dropout in training mode, although the model is in eval mode; pass training=self.training"
        )
    return call["input"]


def _reshape(build: Builder, call: Call) -> Value:
    return build.add(Reshape(), (call["self"],), call.shape)


def _permute(build: Builder, call: Call) -> Value:
    # Torch itself says what goes where, by sizes that are all different.
    probe = torch.empty(*range(2, 2 + len(call.shape)), device="meta")
    moved = getattr(torch.ops.aten, call.op)(**{**call.args, "self": probe})
    return build.add(Permute(tuple(size - 2 for size in moved.shape)), (call["self"],), call.shape)


def _pixel_shuffle(build: Builder, call: Call) -> Value:
    x, r = build.shape(call["self"]), call["upscale_factor"]
    # However many dimensions stand before the channels, they are a batch.
    images = build.add(Reshape(), (call["self"],), (prod(x[:-3]), *x[-3:]))
    channels, *size = call.shape[-3:]
    shuffled = build.add(DepthToSpace((r, r), channels), (images,), (prod(x[:-3]), channels, *size))
    return build.add(Reshape(), (shuffled,), call.shape)


def _pixel_unshuffle(build: Builder, call: Call) -> Value:
    x, r = build.shape(call["self"]), call["downscale_factor"]
    planes, h, w = prod(x[:-2]), x[-2] // r, x[-1] // r
    blocks = build.add(Reshape(), (call["self"],), (planes, h, r, w, r))
    phases = build.add(Permute((0, 2, 4, 1, 3)), (blocks,), (planes, r, r, h, w))
    return build.add(Reshape(), (phases,), call.shape)


def _channel_shuffle(build: Builder, call: Call) -> Value:
    x, groups = build.shape(call["self"]), call["groups"]
    pixels = prod(x[2:])
    split = build.add(Reshape(), (call["self"],), (x[0], groups, x[1] // groups, pixels))
    dealt = build.add(Permute((0, 2, 1, 3)), (split,), (x[0], x[1] // groups, groups, pixels))
    return build.add(Reshape(), (dealt,), call.shape)


def _expand(build: Builder, call: Call) -> Value:
    if build.shape(call["self"]) == call.shape:
        return call["self"]
    return build.add(Mul(), (call["self"], torch.ones(call.shape)), call.shape)


def _cat(build: Builder, call: Call) -> Value:
    return build.add(Concat(call["dim"] % len(call.shape)), tuple(call["tensors"]), call.shape)


def _stack(build: Builder, call: Call) -> Value:
    dim = call["dim"] % len(call.shape)
    slices = (*call.shape[:dim], 1, *call.shape[dim + 1 :])
    planes = tuple(build.add(Reshape(), (tensor,), slices) for tensor in call["tensors"])
    return build.add(Concat(dim), planes, call.shape)


def _roll(build: Builder, call: Call) -> Value:
    """What is pushed out at one end comes in at the other."""
    x, shape = call["self"], call.shape
    if not call["dims"]:
        raise UnsupportedError("roll without dims, which moves rows into each other; name the dimensions")
    for dim, shift in zip(call["dims"], call["shifts"], strict=True):
        extent, axis = shape[dim], dim % len(shape)
        if moved := shift % extent:
            first, rest = ((*shape[:axis], size, *shape[axis + 1 :]) for size in (moved, extent - moved))
            x = build.add(
                Concat(axis), (cut(build, x, axis, extent - moved, first), cut(build, x, axis, 0, rest)), shape
            )
    return x


def _pad(build: Builder, call: Call) -> Value:
    mode = call.args.get("mode", "constant")
    if mode != "constant":
        raise UnsupportedError(f"padding mode {mode!r}; only constant padding is supported")
    before = [0] * len(call.shape)
    # torch lists pairs from the last dimension on.
    for i, amount in enumerate(call["pad"][::2]):
        before[-1 - i] = amount
    value = call.args.get("value") or 0.0
    return build.add(Pad(tuple(before), float(value)), (call["self"],), call.shape)


def _slice(build: Builder, call: Call) -> Value:
    start, _, step = slice(call["start"], call["end"], call["step"]).indices(build.shape(call["self"])[call["dim"]])
    return cut(build, call["self"], call["dim"], start, call.shape, step)


def _narrow(build: Builder, call: Call) -> Value:
    extent = build.shape(call["self"])[call["dim"]]
    return cut(build, call["self"], call["dim"], call["start"] % extent, call.shape)


def _select(build: Builder, call: Call) -> Value:
    x = build.shape(call["self"])
    dim = call["dim"] % len(x)
    plane = cut(build, call["self"], dim, call["index"] % x[dim], (*x[:dim], 1, *x[dim + 1 :]))
    return build.add(Reshape(), (plane,), call.shape)


def _split(build: Builder, call: Call) -> tuple[Value, ...]:
    start, parts = 0, []
    for shape in call.shapes:
        parts.append(cut(build, call["self"], call["dim"], start, shape))
        start += shape[call["dim"]]
    return tuple(parts)


def _unbind(build: Builder, call: Call) -> tuple[Value, ...]:
    x = build.shape(call["self"])
    dim = call["dim"] % len(x)
    planes = (cut(build, call["self"], dim, i, (*x[:dim], 1, *x[dim + 1 :])) for i in range(x[dim]))
    return tuple(build.add(Reshape(), (plane,), shape) for plane, shape in zip(planes, call.shapes, strict=True))


def cut(build: Builder, x: Value, dim: int, start: int, shape: Shape, step: int = 1) -> Value:
    """A result of this shape from `start` on along one dimension."""
    starts, steps = [0] * len(shape), [1] * len(shape)
    starts[dim], steps[dim] = start, step
    return build.add(Slice(tuple(starts), tuple(steps)), (x,), shape)


_RESHAPES = ("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "_unsafe_view", "view_as", "reshape_as")
_PERMUTATIONS = ("permute", "transpose", "t", "numpy_T", "mT", "movedim", "moveaxis", "swapaxes", "swapdims")
_NOTHING = ("contiguous", "clone", "detach", "alias", "lift_fresh_copy")

MOVEMENT: Mapping[str, Callable[[Builder, Call], Value | tuple[Value, ...]]] = {
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(_PERMUTATIONS, _permute),
    **dict.fromkeys(_NOTHING, _same),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _dropout),
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    "native_channel_shuffle": _channel_shuffle,
    "expand": _expand,
    "expand_as": _expand,
    "cat": _cat,
    "concat": _cat,
    "stack": _stack,
    "roll": _roll,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _split,
    "unbind": _unbind,
}
