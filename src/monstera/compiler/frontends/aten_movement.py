"""Torch operators that only move values: shape, order, joins, cuts, padding; and those that do nothing in inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Literal, TypeAlias

import numpy as np
import torch

from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.ir import Concat, DepthToSpace, Mul, Pad, Shape, Slice

# Every piece costs a copy of its own.
_MOST_PIECES = 128
# What numpy calls the modes in which padding repeats what is there.
Mode: TypeAlias = Literal["reflect", "edge", "wrap"]
_MODES: Mapping[str, Mode] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _same(_build: Builder, call: Call) -> Value:
    return call["self"]


def _dropout(_build: Builder, call: Call) -> Value:
    if call["train"]:
        raise UnsupportedError(
            "dropout in training mode, although the model is in eval mode; pass training=self.training"
        )
    return call["input"]


def _reshape(build: Builder, call: Call) -> Value:
    return build.reshaped(call["self"], call.shape)


def _permute(build: Builder, call: Call) -> Value:
    # Torch itself says what goes where, by sizes that are all different.
    probe = torch.empty(*range(2, 2 + len(call.shape)), device="meta")
    moved = getattr(torch.ops.aten, call.op)(**{**call.args, "self": probe})
    return build.permuted(call["self"], tuple(size - 2 for size in moved.shape))


def _pixel_shuffle(build: Builder, call: Call) -> Value:
    x, r = build.shape(call["self"]), call["upscale_factor"]
    # However many dimensions stand before the channels, they are a batch.
    images = build.reshaped(call["self"], (prod(x[:-3]), *x[-3:]))
    channels, *size = call.shape[-3:]
    shuffled = build.add(DepthToSpace((r, r), channels), (images,), (prod(x[:-3]), channels, *size))
    return build.reshaped(shuffled, call.shape)


def _pixel_unshuffle(build: Builder, call: Call) -> Value:
    x, r = build.shape(call["self"]), call["downscale_factor"]
    planes, h, w = prod(x[:-2]), x[-2] // r, x[-1] // r
    blocks = build.reshaped(call["self"], (planes, h, r, w, r))
    return build.reshaped(build.permuted(blocks, (0, 2, 4, 1, 3)), call.shape)


def _channel_shuffle(build: Builder, call: Call) -> Value:
    x, groups = build.shape(call["self"]), call["groups"]
    split = build.reshaped(call["self"], (x[0], groups, x[1] // groups, prod(x[2:])))
    return build.reshaped(build.permuted(split, (0, 2, 1, 3)), call.shape)


def _expand(build: Builder, call: Call) -> Value:
    if build.shape(call["self"]) == call.shape:
        return call["self"]
    return build.add(Mul(), (call["self"], torch.ones(call.shape)), call.shape)


def _cat(build: Builder, call: Call) -> Value:
    return build.add(Concat(call["dim"] % len(call.shape)), tuple(call["tensors"]), call.shape)


def _stack(build: Builder, call: Call) -> Value:
    dim = call["dim"] % len(call.shape)
    slices = (*call.shape[:dim], 1, *call.shape[dim + 1 :])
    planes = tuple(build.reshaped(tensor, slices) for tensor in call["tensors"])
    return build.add(Concat(dim), planes, call.shape)


def _roll(build: Builder, call: Call) -> Value:
    """What is pushed out at one end comes in at the other."""
    x = call["self"]
    if not call["dims"]:
        raise UnsupportedError("roll without dims, which moves rows into each other; name the dimensions")
    for dim, shift in zip(call["dims"], call["shifts"], strict=True):
        extent, axis = call.shape[dim], dim % len(call.shape)
        if moved := shift % extent:
            x = taken(build, x, axis, [*range(extent - moved, extent), *range(extent - moved)])
    return x


def _pad(build: Builder, call: Call) -> Value:
    # torch lists pairs from the last dimension on.
    pairs = zip(call["pad"][::2], call["pad"][1::2], strict=True)
    pads = {len(call.shape) - 1 - i: pair for i, pair in enumerate(pairs)}
    mode = call.args.get("mode", "constant")
    if mode != "constant":
        return padded(build, call["self"], pads, _MODES[mode])
    before = tuple(pads.get(d, (0, 0))[0] for d in range(len(call.shape)))
    return build.add(Pad(before, float(call.args.get("value") or 0.0)), (call["self"],), call.shape)


def _slice(build: Builder, call: Call) -> Value:
    x, dim = build.shape(call["self"]), call["dim"] % len(call.shape)
    return cut(build, call["self"], {dim: range(x[dim])[call["start"] : call["end"] : call["step"]]})


def _narrow(build: Builder, call: Call) -> Value:
    x, dim = build.shape(call["self"]), call["dim"] % len(call.shape)
    start = call["start"] % x[dim]
    return cut(build, call["self"], {dim: range(start, start + call["length"])})


def _select(build: Builder, call: Call) -> Value:
    x = build.shape(call["self"])
    dim = call["dim"] % len(x)
    place = call["index"] % x[dim]
    return build.reshaped(cut(build, call["self"], {dim: range(place, place + 1)}), call.shape)


def _split(build: Builder, call: Call) -> tuple[Value, ...]:
    return in_parts(build, call["self"], call["dim"] % len(call.shape), call.shapes)


def _unbind(build: Builder, call: Call) -> tuple[Value, ...]:
    x = build.shape(call["self"])
    dim = call["dim"] % len(x)
    planes = (cut(build, call["self"], {dim: range(i, i + 1)}) for i in range(x[dim]))
    return tuple(build.reshaped(plane, call.shape) for plane in planes)


def cut(build: Builder, x: Value, kept: Mapping[int, range]) -> Value:
    """The elements at places of some dimensions that ascend evenly, and at all of the others."""
    places = [kept.get(d, range(n)) for d, n in enumerate(build.shape(x))]
    op = Slice(tuple(p.start for p in places), tuple(p.step for p in places))
    return build.add(op, (x,), tuple(len(p) for p in places))


def in_parts(build: Builder, x: Value, dim: int, shapes: Sequence[Shape]) -> tuple[Value, ...]:
    """Parts of these shapes, one after another along a dimension."""
    ends = np.cumsum([shape[dim] for shape in shapes]).tolist()
    return tuple(cut(build, x, {dim: range(end - shape[dim], end)}) for end, shape in zip(ends, shapes, strict=True))


def taken(build: Builder, x: Value, dim: int, places: Sequence[int]) -> Value:
    """The elements at any places of a dimension, cut out in as few pieces as there are.

    Raises:
        UnsupportedError: the pieces are too many.
    """
    pieces = _pieces(places)
    if len(pieces) > _MOST_PIECES:
        raise UnsupportedError(
            f"places {[*places[:4]]}... of a dimension come in {len(pieces)} pieces; at most {_MOST_PIECES} are joined"
        )
    parts = tuple(cut(build, x, {dim: piece}) for piece in pieces)
    shape = list(build.shape(x))
    shape[dim] = len(places)
    return parts[0] if len(parts) == 1 else build.add(Concat(dim), parts, tuple(shape))


def _pieces(places: Sequence[int]) -> list[range]:
    """Stretches of places that ascend evenly."""
    pieces, first = [], 0
    while first < len(places):
        last = first + 1
        step = places[last] - places[first] if last < len(places) else 0
        while step > 0 and last < len(places) and places[last] - places[last - 1] == step:
            last += 1
        pieces.append(range(places[first], places[last - 1] + 1, max(step, 1)))
        first = last
    return pieces


def padded(build: Builder, x: Value, pads: Mapping[int, Sequence[int]], mode: Mode) -> Value:
    """Padding before and after dimensions by what is there, in one of numpy's modes, which says which place goes where.

    Raises:
        UnsupportedError: padding that cuts off.
    """
    for dim, pair in pads.items():
        if min(pair) < 0:
            raise UnsupportedError(f"padding that repeats what is there and cuts off (pads {[*pair]})")
        if any(pair):
            x = taken(build, x, dim, np.pad(np.arange(build.shape(x)[dim]), tuple(pair), mode).tolist())
    return x


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
