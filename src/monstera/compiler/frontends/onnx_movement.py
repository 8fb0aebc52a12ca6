"""ONNX operators that only move values: shape, order, joins, cuts, padding; and those that do nothing in inference."""

from __future__ import annotations

from collections.abc import Mapping

from monstera.compiler.frontends import aten_movement
from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.frontends.onnx_call import Rule, as_torch, axes, integers, number
from monstera.compiler.ir import Concat, DepthToSpace, Pad, Permute, Reshape, Shape, Slice

_TORCH = aten_movement.MOVEMENT


def _dropout(_build: Builder, call: Call) -> Value:
    training, ratio = number(call, "training_mode"), number(call, "ratio")
    if training and ratio != 0:
        raise UnsupportedError("dropout in training mode; export the model in eval mode")
    return call["data"]


def _cast(_build: Builder, call: Call) -> Value:
    # The walk has made sure that both sides are fp32.
    return call["input"]


def _transpose(build: Builder, call: Call) -> Value:
    dims = integers(call, "perm") or tuple(reversed(range(len(call.shape))))
    return build.add(Permute(dims), (call["data"],), call.shape)


def _concat(build: Builder, call: Call) -> Value:
    return build.add(Concat(call["axis"] % len(call.shape)), tuple(call["inputs"]), call.shape)


def _split(build: Builder, call: Call) -> tuple[Value, ...]:
    axis = call["axis"] % len(call.shape)
    sizes = [shape[axis] for shape in call.shapes]
    parts = (range(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes)))
    return tuple(_cut(build, call["input"], {axis: part}) for part in parts)


def _slice(build: Builder, call: Call) -> Value:
    x = build.shape(call["data"])
    starts, ends = integers(call, "starts") or (), integers(call, "ends") or ()
    dims = axes(call, len(x)) or tuple(range(len(starts)))
    steps = integers(call, "steps") or (1,) * len(starts)
    if any(step < 0 for step in steps):
        raise UnsupportedError(f"a slice that walks backwards (steps {list(steps)})")
    cuts = zip(dims, starts, ends, steps, strict=True)
    return _cut(build, call["data"], {d: range(x[d])[first:last:step] for d, first, last, step in cuts})


def _cut(build: Builder, x: Value, kept: Mapping[int, range]) -> Value:
    """The elements at evenly spaced places of some dimensions."""
    places = [kept.get(d, range(n)) for d, n in enumerate(build.shape(x))]
    op = Slice(tuple(p.start for p in places), tuple(p.step for p in places))
    return build.add(op, (x,), tuple(len(p) for p in places))


def _gather(build: Builder, call: Call) -> Value:
    x = build.shape(call["data"])
    axis, indices = call["axis"] % len(x), build.known(call["indices"], "the list of indices")
    places = [int(i) + (x[axis] if i < 0 else 0) for i in indices.reshape(-1)]
    if outside := [p for p in places if not 0 <= p < x[axis]]:
        raise UnsupportedError(f"index {outside[0]} of a dimension of size {x[axis]}")
    step = places[1] - places[0] if len(places) > 1 else 1
    even = range(places[0], places[-1] + 1, step) if places and step > 0 else range(0)
    if [*even] != places:
        raise UnsupportedError(f"gathering {places[:8]}, which are not evenly spaced and ascending")
    cut = _cut(build, call["data"], {axis: even})
    return build.add(Reshape(), (cut,), call.shape)


def _pad(build: Builder, call: Call) -> Value:
    if call["mode"] != "constant":
        raise UnsupportedError(f"padding mode {call['mode']!r}; only constant padding is supported")
    rank = len(call.shape)
    pads = integers(call, "pads") or ()
    dims = axes(call, rank) or tuple(range(rank))
    before = [0] * rank
    for d, amount in zip(dims, pads, strict=False):
        before[d] = amount
    return build.add(Pad(tuple(before), number(call, "constant_value") or 0.0), (call["data"],), call.shape)


def _depth_to_space(build: Builder, call: Call) -> Value:
    b = call["blocksize"]
    # DCR: the block's pixels come first among the channels; CRD: last.
    groups = call.shape[1] if call["mode"] == "CRD" else 1
    return build.add(DepthToSpace((b, b), groups), (call["input"],), call.shape)


def _space_to_depth(build: Builder, call: Call) -> Value:
    n, c, h, w = build.shape(call["input"])
    b = call["blocksize"]
    blocks = build.add(Reshape(), (call["input"],), (n, c, h // b, b, w // b, b))
    moved: Shape = (n, b, b, c, h // b, w // b)
    return build.add(Reshape(), (build.add(Permute((0, 3, 5, 1, 2, 4)), (blocks,), moved),), call.shape)


def _reshape(name: str) -> Rule:
    return as_torch(_TORCH, "reshape", self=name)


MOVEMENT: Mapping[str, Rule] = {
    "Identity": as_torch(_TORCH, "alias", self="input"),
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast,
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
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
