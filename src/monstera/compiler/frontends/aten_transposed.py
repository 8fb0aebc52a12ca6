"""Transposed convolution as a convolution of stride 1 that computes every phase of its output.

Output pixel `t` of one dimension sums `w[k] x[i]` over all `s i + d k = t + p` (stride, dilation, padding). So tap k
only ever meets the outputs of one phase, `t % s = (d k - p) % s`, and there it reads the input at a constant distance
from `t // s`. Each phase gets its own set of filters, with the taps of that phase flipped; a block of s pixels is then
the phases side by side (`DepthToSpace`). Taps that a phase lacks are zeros, which the compiler skips as it skips holes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.ir import Conv, DepthToSpace, Shape, Slice


@dataclass(frozen=True, slots=True)
class _Axis:
    """One dimension: for every tap of the transposed kernel its phase and its place in the new kernel.

    `size`, `before` and `after` are the new kernel's extent and padding; `blocks` is how many outputs a phase has.
    """

    phase: np.ndarray
    place: np.ndarray
    size: int
    before: int
    after: int
    blocks: int


def conv_transpose(build: Builder, call: Call) -> Value:
    """Translate a transposed convolution: a convolution, then blocks of pixels from channels, then a cut."""
    x, rank = build.image(call, "input")
    weight = build.known(call["weight"], "the weight").detach().cpu().numpy()
    groups, sizes = call["groups"], build.shape(x)[2:]
    stride, padding, dilation = (call.sizes(name, rank) for name in ("stride", "padding", "dilation"))
    axes = [
        _axis(*numbers)
        for numbers in zip(weight.shape[2:], stride, padding, dilation, sizes, call.shape[2:], strict=True)
    ]
    op = Conv(
        weight=build.param(_phase_filters(weight, axes, stride, groups), "weight"),
        bias=_phase_bias(build, call, stride),
        stride=(1,) * rank,
        padding=(*(a.before for a in axes), *(a.after for a in axes)),
        dilation=(1,) * rank,
        groups=groups,
    )
    channels = call.shape[1] * prod(stride)
    y = build.add(op, (x,), (call.shape[0], channels, *(a.blocks for a in axes)))
    return _assembled(build, y, call.shape, stride, groups)


def _axis(kernel: int, stride: int, padding: int, dilation: int, size: int, out: int) -> _Axis:
    taps = dilation * np.arange(kernel) - padding
    phase = taps % stride
    reach = (phase - taps) // stride
    blocks = -(-out // stride)
    # Where the output is smaller than the input, or lies inside it, absent taps stand for a negative padding.
    low, high = min(0, int(reach.min())), max(int(reach.max()), size - blocks)
    return _Axis(phase, reach - low, high - low + 1, -low, blocks - size + high, blocks)


def _phase_filters(weight: np.ndarray, axes: list[_Axis], stride: Shape, groups: int) -> np.ndarray:
    """`[in, out / groups, *kernel]` as `[groups * phases * out / groups, in / groups, *new kernel]`."""
    rank = len(axes)
    inside, outside = weight.shape[0] // groups, weight.shape[1]
    filters = np.zeros((*stride, *(a.size for a in axes), groups, outside, inside), np.float32)
    phases = np.meshgrid(*(a.phase for a in axes), indexing="ij")
    places = np.meshgrid(*(a.place for a in axes), indexing="ij")
    taps = weight.reshape(groups, inside, outside, *weight.shape[2:])
    filters[(*phases, *places)] = taps.transpose(*range(3, 3 + rank), 0, 2, 1)
    phase_axes, place_axes = range(rank), range(rank, 2 * rank)
    filters = filters.transpose(2 * rank, *phase_axes, 2 * rank + 1, 2 * rank + 2, *place_axes)
    return filters.reshape(-1, inside, *(a.size for a in axes))


def _phase_bias(build: Builder, call: Call, stride: Shape) -> str | None:
    if call["bias"] is None:
        return None
    bias = build.known(call["bias"], "the bias").detach().reshape(call["groups"], 1, -1)
    return build.param(bias.expand(-1, prod(stride), -1).reshape(-1).to(torch.float32), "bias")


def _assembled(build: Builder, y: Value, shape: Shape, stride: Shape, groups: int) -> Value:
    """The phases woven into images of `shape`; what lies behind their end is cut off."""
    if prod(stride) == 1:
        return y
    whole = tuple(n * s for n, s in zip(build.shape(y)[2:], stride, strict=True))
    y = build.add(DepthToSpace(stride, groups), (y,), (*shape[:2], *whole))
    if whole == shape[2:]:
        return y
    return build.add(Slice((0,) * len(shape), (1,) * len(shape)), (y,), shape)
