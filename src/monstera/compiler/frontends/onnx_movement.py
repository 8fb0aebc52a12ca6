"""ONNX operators that only move values: shape, order, joins, cuts, look-ups, padding; and those that do nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch

from monstera.compiler.frontends import aten_movement
from monstera.compiler.frontends.aten_lookups import LOOKUPS
from monstera.compiler.frontends.aten_movement import cut, in_parts, padded, taken
from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.frontends.onnx_call import Rule, as_torch, axes, integers, number
from monstera.compiler.ir import Concat, DepthToSpace, Pad, Shape

_TORCH = aten_movement.MOVEMENT


def _dropout(_build: Builder, call: Call) -> Value:
    training, ratio = number(call, "training_mode"), number(call, "ratio")
    if training and ratio != 0:
        raise UnsupportedError("dropout in training mode; export the model in eval mode")
    return call["data"]


def _transpose(build: Builder, call: Call) -> Value:
    dims = integers(call, "perm") or tuple(reversed(range(len(call.shape))))
    return build.permuted(call["data"], dims)


def _concat(build: Builder, call: Call) -> Value:
    return build.add(Concat(call["axis"] % len(call.shape)), tuple(call["inputs"]), call.shape)


def _split(build: Builder, call: Call) -> tuple[Value, ...]:
    return in_parts(build, call["input"], call["axis"] % len(call.shape), call.shapes)


def _slice(build: Builder, call: Call) -> Value:
    x = build.shape(call["data"])
    starts, ends = integers(call, "starts") or (), integers(call, "ends") or ()
    dims = axes(call, len(x)) or tuple(range(len(starts)))
    steps = integers(call, "steps") or (1,) * len(starts)
    kept = {d: range(x[d])[part] for d, part in zip(dims, map(slice, starts, ends, steps), strict=True)}
    y = cut(build, call["data"], {d: places for d, places in kept.items() if places.step > 0})
    for d, places in kept.items():
        y = taken(build, y, d, [*places]) if places.step < 0 else y
    return y


def _gather(build: Builder, call: Call) -> Value:
    data, indices = call["data"], call["indices"]
    x = build.shape(data)
    axis = call["axis"] % len(x)
    if isinstance(data, torch.Tensor):
        if axis:
            raise UnsupportedError(f"looking up computed places of dimension {axis} of a table; expected dimension 0")
        given = {"weight": data.reshape(len(data), -1) if data.ndim != 2 else data, "indices": indices}
        rows: Shape = (*build.shape(indices), prod(x[1:]))
        looked_up = LOOKUPS["embedding"](build, Call("embedding", given, (rows,)))
        return build.reshaped(looked_up, call.shape)
    known = build.known(indices, "the list of indices")
    chosen = taken(build, data, axis, _within([int(i) for i in known.reshape(-1)], x[axis]))
    return build.reshaped(chosen, call.shape)


def _gather_nd(build: Builder, call: Call) -> Value:
    x, indices = build.shape(call["data"]), build.known(call["indices"], "the list of indices")
    if call["batch_dims"]:
        raise UnsupportedError(f"indices of their own for each of a batch (batch_dims={call['batch_dims']})")
    depth = indices.shape[-1]
    columns = [_within(indices[..., d].reshape(-1).tolist(), x[d]) for d in range(depth)]
    rows = build.reshaped(call["data"], (prod(x[:depth]), *x[depth:]))
    chosen = taken(build, rows, 0, np.ravel_multi_index(columns, x[:depth]).tolist())
    return build.reshaped(chosen, call.shape)


def _within(indices: Sequence[int], size: int) -> list[int]:
    """Indices that may count from the end, counted from the start."""
    places = [i + (size if i < 0 else 0) for i in indices]
    if outside := [p for p in places if not 0 <= p < size]:
        raise UnsupportedError(f"index {outside[0]} of a dimension of size {size}")
    return places


def _tile(build: Builder, call: Call) -> Value:
    y = call["input"]
    for d, count in enumerate(integers(call, "repeats") or ()):
        shape = list(build.shape(y))
        shape[d] *= count
        y = y if count == 1 else build.add(Concat(d), (y,) * count, tuple(shape))
    return y


def _pad(build: Builder, call: Call) -> Value:
    rank = len(call.shape)
    pads = integers(call, "pads") or ()
    dims = axes(call, rank) or tuple(range(rank))
    before, after = pads[: len(dims)], pads[len(dims) :]
    if call["mode"] != "constant":
        return padded(
            build, call["data"], {d: pair for d, *pair in zip(dims, before, after, strict=True)}, call["mode"]
        )
    all_before = [0] * rank
    for d, amount in zip(dims, before, strict=True):
        all_before[d] = amount
    return build.add(Pad(tuple(all_before), number(call, "constant_value") or 0.0), (call["data"],), call.shape)


def _depth_to_space(build: Builder, call: Call) -> Value:
    b = call["blocksize"]
    # DCR: the block's pixels come first among the channels; CRD: last.
    groups = call.shape[1] if call["mode"] == "CRD" else 1
    return build.add(DepthToSpace((b, b), groups), (call["input"],), call.shape)


def _space_to_depth(build: Builder, call: Call) -> Value:
    n, c, h, w = build.shape(call["input"])
    b = call["blocksize"]
    blocks = build.reshaped(call["input"], (n, c, h // b, b, w // b, b))
    return build.reshaped(build.permuted(blocks, (0, 3, 5, 1, 2, 4)), call.shape)


def _reshape(name: str) -> Rule:
    return as_torch(_TORCH, "reshape", self=name)


MOVEMENT: Mapping[str, Rule] = {
    "Identity": as_torch(_TORCH, "alias", self="input"),
    "Dropout": _dropout,
    "Reshape": _reshape("data"),
    "Flatten": _reshape("input"),
    "Squeeze": _reshape("data"),
    "Unsqueeze": _reshape("data"),
    "Transpose": _transpose,
    "Expand": as_torch(_TORCH, "expand", self="input"),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Tile": _tile,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
