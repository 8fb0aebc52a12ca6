"""What operators say about channels that take each position by itself, count along dimensions, or look through windows.

A rule takes the ledger, the operator's arguments (values where the program has tensors) and the shape of the result,
and returns the axes of the result. It may only claim what holds for every permutation that the ledger admits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monstera.sparsity.channels.axes import Axes, Axis, Ledger, Shape, Value


def elementwise(ledger: Ledger, values: Sequence[Value], shape: Shape) -> Axes:
    """Operands are broadcast: an axis is tied to the same axis of every operand that varies there."""
    aligned = [value.aligned(len(shape)) for value in values]
    found: dict[tuple[int, ...], Axis] = {}
    refused: set[tuple[int, ...]] = set()
    for index, value in enumerate(aligned):
        for axis in value.axes:
            others = [v for v in aligned[:index] + aligned[index + 1 :] if any(v.shape[d] != 1 for d in axis.dims)]
            if any(v.along(axis.dims) is None for v in others):
                ledger.fix(axis, "combines it with what does not move along")
                refused.add(axis.dims)
            elif axis.dims in found:
                ledger.tie(found[axis.dims], axis)
            else:
                found[axis.dims] = axis
    return tuple(axis for dims, axis in found.items() if dims not in refused)


def reduction(ledger: Ledger, x: Value, dims: Sequence[int], keepdim: bool) -> Axes:
    """Sums, means and the like over `dims`: what they count over may be in any order, but stays in its row."""
    dims = tuple(sorted({d % x.rank for d in dims}))
    kept = [axis for axis in normalised(ledger, x, dims) if not set(axis.dims) & set(dims)]
    return tuple(kept) if keepdim else tuple(axis.mapped(lambda a: np.squeeze(a, dims)) for axis in kept)


def normalised(ledger: Ledger, x: Value, dims: Sequence[int]) -> Axes:
    """Softmax and norms over `dims`: channels stay in their row, and none can be taken away."""
    for axis in x.axes:
        if any(d in dims for d in axis.dims):
            ledger.pen(axis, [d for d in axis.dims if d not in dims])
            ledger.keep_whole(axis, "counts over it")
    return x.axes


def batch_norm(ledger: Ledger, shape: Shape, x: Value, vectors: Sequence[Value]) -> Axes:
    """Factors and statistics belong to dimension 1."""
    pixels = len(shape) - 2
    columns = [Value((v.shape[0], *[1] * pixels), tuple(as_column(a, pixels) for a in v.axes)) for v in vectors]
    return elementwise(ledger, [x, *columns], shape)


def as_column(axis: Axis, pixels: int) -> Axis:
    return axis.mapped(lambda a: a.reshape(-1, *[1] * pixels))


def layer_norm(ledger: Ledger, shape: Shape, x: Value, count: int, vectors: Sequence[Value]) -> Axes:
    """The last `count` dimensions are normalised; factors belong to them."""
    axes = normalised(ledger, x, range(x.rank - count, x.rank))
    return elementwise(ledger, [Value(shape, axes), *vectors], shape)


def group_norm(ledger: Ledger, shape: Shape, x: Value, groups: int, vectors: Sequence[Value]) -> Axes:
    """Channels change places inside their group only."""
    axes = batch_norm(ledger, shape, x, vectors)
    for axis in axes:
        if axis.dims == (1,):
            ledger.pen(axis.mapped(lambda a: a.reshape(groups, -1)), (0,) if groups > 1 else ())
            ledger.keep_whole(axis, "counts over it")
        else:
            ledger.fix(axis, "normalises over it")
    return axes


def windowed(ledger: Ledger, x: Value, windows: int) -> Axes:
    """Pooling and resizing over the last dimensions: what lies there stays."""
    kept = []
    for axis in x.axes:
        if any(d >= x.rank - windows for d in axis.dims):
            ledger.fix(axis, "moves a window over it")
        else:
            kept.append(axis)
    return tuple(kept)


def unknown(ledger: Ledger, values: Sequence[Value], reason: str) -> Axes:
    """Fix everything that an operator touches."""
    for value in values:
        for axis in value.axes:
            ledger.fix(axis, reason)
    return ()
