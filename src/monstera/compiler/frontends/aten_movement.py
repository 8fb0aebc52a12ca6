"""Torch operators that only move values: shapes, joins, cuts, padding, and those that do nothing in inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.ir import Concat, Mul, Pad, Reshape, Shape, Slice


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


def _expand(build: Builder, call: Call) -> Value:
    if build.shape(call["self"]) == call.shape:
        return call["self"]
    return build.add(Mul(), (call["self"], torch.ones(call.shape)), call.shape)


def _cat(build: Builder, call: Call) -> Value:
    return build.add(Concat(call["dim"] % len(call.shape)), tuple(call["tensors"]), call.shape)


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
    return _cut(build, call["self"], call["dim"], start, call.shape, step)


def _narrow(build: Builder, call: Call) -> Value:
    extent = build.shape(call["self"])[call["dim"]]
    return _cut(build, call["self"], call["dim"], call["start"] % extent, call.shape)


def _select(build: Builder, call: Call) -> Value:
    x = build.shape(call["self"])
    dim = call["dim"] % len(x)
    plane = _cut(build, call["self"], dim, call["index"] % x[dim], (*x[:dim], 1, *x[dim + 1 :]))
    return build.add(Reshape(), (plane,), call.shape)


def _split(build: Builder, call: Call) -> tuple[Value, ...]:
    start, parts = 0, []
    for shape in call.shapes:
        parts.append(_cut(build, call["self"], call["dim"], start, shape))
        start += shape[call["dim"]]
    return tuple(parts)


def _cut(build: Builder, x: Value, dim: int, start: int, shape: Shape, step: int = 1) -> Value:
    starts, steps = [0] * len(shape), [1] * len(shape)
    starts[dim], steps[dim] = start, step
    return build.add(Slice(tuple(starts), tuple(steps)), (x,), shape)


_RESHAPES = ("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "_unsafe_view", "view_as", "reshape_as")
_NOTHING = ("contiguous", "clone", "detach", "alias", "lift_fresh_copy", "to", "type_as", "_to_copy")

MOVEMENT: Mapping[str, Callable[[Builder, Call], Value | tuple[Value, ...]]] = {
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(_NOTHING, _same),
    "dropout": _dropout,
    "feature_dropout": _dropout,
    "alpha_dropout": _dropout,
    "expand": _expand,
    "expand_as": _expand,
    "cat": _cat,
    "concat": _cat,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _split,
}
