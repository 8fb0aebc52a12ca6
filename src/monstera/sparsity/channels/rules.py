"""What each operator of an exported program says about the channels of its inputs and its output.

A rule takes the ledger, the operator's arguments (values where the program has tensors) and the shape of the result,
and returns the axes of the result. It may only claim what holds for every permutation that the ledger admits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monstera.sparsity.channels.axes import Axis, Ledger, Shape, Value

Axes = tuple[Axis, ...]


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


def matmul(ledger: Ledger, left: Value, right: Value, shape: Shape) -> Axes:
    """`[..., m, k] @ [..., k, n]`, also of one dimension; batch dimensions are broadcast."""
    if min(left.rank, right.rank) < 2:
        for axis in (*left.axes, *right.axes):
            ledger.fix(axis, "multiplies vectors")
        return ()
    rank = len(shape)
    left, right = left.aligned(rank), right.aligned(rank)
    _contract(ledger, left, right, rank)
    return (*_carried(ledger, left, right, rank - 1), *_carried(ledger, right, left, rank - 2))


def _contract(ledger: Ledger, left: Value, right: Value, rank: int) -> None:
    """Tie what is summed over: the last dimension of the left operand, the last but one of the right."""
    turned = Value(_swapped(right.shape), tuple(a.mapped(lambda x: x.swapaxes(-1, -2)) for a in right.axes))
    summed = [[axis for axis in value.axes if rank - 1 in axis.dims] for value in (left, turned)]
    partners = {axis.dims: axis for axis in summed[1]}
    for axis in summed[0]:
        other = partners.pop(axis.dims, None)
        if other is None or rank - 2 in axis.dims:
            ledger.fix(axis, "sums it with what does not move along")
            partners.update({} if other is None else {axis.dims: other})
            continue
        ledger.tie(axis, other)
        ledger.pen(axis, axis.dims[:-1])
    for axis in partners.values():
        ledger.fix(axis, "sums it with what does not move along")


def _carried(ledger: Ledger, value: Value, other: Value, summed: int) -> Axes:
    """The axes of one operand that the product has too; along batch dimensions where both vary they stay in place."""
    kept = []
    for axis in value.axes:
        if summed in axis.dims:
            continue
        batch = [d for d in axis.dims if d < value.rank - 2 and other.shape[d] != 1]
        ledger.pen(axis, batch)
        kept.append(axis)
    return tuple(kept)


def _swapped(shape: Shape) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2])


def linear(ledger: Ledger, shape: Shape, x: Value, weight: Value, bias: Value | None = None) -> Axes:
    if x.rank < 2:
        return unknown(ledger, [x, weight, *([bias] if bias else [])], "takes features without batch")
    turned = Value(_swapped(weight.shape), tuple(a.mapped(lambda w: w.swapaxes(-1, -2)) for a in weight.axes))
    axes = matmul(ledger, x, turned, shape)
    return axes if bias is None else elementwise(ledger, [Value(shape, axes), bias], shape)


def addmm(ledger: Ledger, shape: Shape, added: Value, left: Value, right: Value) -> Axes:
    return elementwise(ledger, [Value(shape, matmul(ledger, left, right, shape)), added], shape)


def convolution(
    ledger: Ledger, shape: Shape, x: Value, weight: Value, bias: Value | None, groups: int, transposed: bool
) -> Axes:
    """Channels are dimension 1; positions of kernels and pixels stay where they are."""
    if x.rank != len(shape) or x.rank != weight.rank:
        return unknown(ledger, [x, weight, *([bias] if bias else [])], "takes a picture without batch")
    for axis in (*x.axes, *weight.axes):
        if any(d > 1 or (d == 0 and axis in x.axes) for d in axis.dims):
            ledger.fix(axis, "" if axis in weight.axes else "moves a window over it")
    ins, outs = (weight.along([0]), weight.along([1])) if transposed else (weight.along([1]), weight.along([0]))
    if groups > 1:
        produced = _grouped(ledger, x, weight, groups, transposed)
    else:
        produced = outs
        _tie_or_fix(ledger, x.along([1]), ins)
    axes = () if produced is None else (_on_dimension_1(produced, x.rank),)
    if bias is None:
        return axes
    column = Value((bias.shape[0], *[1] * (x.rank - 2)), tuple(_column(a, x.rank - 2) for a in bias.axes))
    return elementwise(ledger, [Value(shape, axes), column], shape)


def _grouped(ledger: Ledger, x: Value, weight: Value, groups: int, transposed: bool) -> Axis | None:
    """Depthwise filters follow their channel; in other groups a channel of a group may change places inside it."""
    channels, ins, outs = x.along([1]), weight.along([1]), weight.along([0])
    if channels is None or transposed or weight.parameter is None:
        for axis in x.axes + weight.axes:
            ledger.fix(axis, "is a grouped convolution of what does not move along")
        return None
    if weight.shape[:2] == (groups, 1) and outs is not None:
        ledger.tie(channels, outs)
        return outs
    if ins is not None:
        ledger.fix(ins, "")
    per_group = weight.shape[0] // groups
    if x.shape[1] > groups:
        view = (groups, per_group, *weight.shape[1:])
        inside = ledger.seed(weight.parameter, view, (0, 2))
        ledger.tie(channels, inside)
        ledger.pen(inside, (0,))
    else:
        ledger.fix(channels, "makes several channels of each")
    ledger.keep_whole(channels, "has groups of equal size")
    if outs is None:
        return None
    ledger.keep_whole(outs, "has groups of equal size")
    ledger.pen(outs.mapped(lambda a: a.reshape(groups, per_group)), (0,))
    if x.shape[1] == groups:
        ledger.fix(outs, "makes several channels of each")
    return outs


def _tie_or_fix(ledger: Ledger, one: Axis | None, other: Axis | None) -> None:
    if one is not None and other is not None:
        ledger.tie(one, other)
        return
    for axis in (one, other):
        if axis is not None:
            ledger.fix(axis, "sums it with what does not move along")


def _on_dimension_1(axis: Axis, rank: int) -> Axis:
    return axis.mapped(lambda a: a.reshape(1, -1, *[1] * (rank - 2)))


def _column(axis: Axis, pixels: int) -> Axis:
    return axis.mapped(lambda a: a.reshape(-1, *[1] * pixels))


def batch_norm(ledger: Ledger, shape: Shape, x: Value, vectors: Sequence[Value]) -> Axes:
    """Factors and statistics belong to dimension 1."""
    pixels = len(shape) - 2
    columns = [Value((v.shape[0], *[1] * pixels), tuple(_column(a, pixels) for a in v.axes)) for v in vectors]
    return elementwise(ledger, [x, *columns], shape)


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


def attention(ledger: Ledger, shape: Shape, q: Value, k: Value, v: Value, mask: Value | None) -> Axes:
    """Within a head queries and keys share their features, values have theirs; heads stay where they are."""
    if len({x.shape[:-2] for x in (q, k, v)}) > 1:
        return unknown(ledger, [q, k, v], "shares keys among heads")
    rank = q.rank
    turned = Value(_swapped(k.shape), tuple(a.mapped(lambda x: x.swapaxes(-1, -2)) for a in k.axes))
    scores = (*q.shape[:-1], k.shape[-2])
    for axis in matmul(ledger, q, turned, scores):
        ledger.fix(axis, "attends over it")
    for axis in q.axes:
        if rank - 1 in axis.dims:
            ledger.keep_whole(axis, "divides scores by the root of its size")
    if mask is not None:
        unknown(ledger, [mask], "masks by it")
    return matmul(ledger, Value(scores), v, shape)


def embedding(ledger: Ledger, shape: Shape, table: Value) -> Axes:
    """Rows are looked up by number and stay; features move."""
    if rows := table.along([0]):
        ledger.fix(rows, "looks rows up by number")
    features = table.along([1])
    return () if features is None else (features.mapped(lambda a: a.reshape((1,) * (len(shape) - 1) + (-1,))),)


def windowed(ledger: Ledger, x: Value, windows: int) -> Axes:
    """Pooling and resizing over the last dimensions: what lies there stays."""
    kept = []
    for axis in x.axes:
        if any(d >= x.rank - windows for d in axis.dims):
            ledger.fix(axis, "moves a window over it")
        else:
            kept.append(axis)
    return tuple(kept)


def concatenated(ledger: Ledger, values: Sequence[Value], dim: int, shape: Shape) -> Axes:
    """Along `dim` channels stand one after the other; along other dimensions operands are tied."""
    dim %= len(shape)
    supports = list(dict.fromkeys(axis.dims for value in values for axis in value.axes))
    kept = []
    for dims in supports:
        parts = [value.along(dims) for value in values]
        if dims == (dim,):
            filled = [_part(ledger, v, p, dim) for v, p in zip(values, parts, strict=True)]
            kept.append(Axis(*(np.concatenate([getattr(p, f) for p in filled], dim) for f in ("atoms", "lanes"))))
        elif dim in dims or any(p is None for p in parts):
            for part in parts:
                if part is not None:
                    ledger.fix(part, "joins it with what does not move along")
        else:
            present = [part for part in parts if part is not None]
            for part in present[1:]:
                ledger.tie(present[0], part)
            kept.append(present[0])
    return tuple(kept)


def _part(ledger: Ledger, value: Value, axis: Axis | None, dim: int) -> Axis:
    if axis is not None:
        return axis
    stuck = ledger.fresh([size if d == dim else 1 for d, size in enumerate(value.shape)])
    ledger.fix(stuck, "")
    return stuck


def padded(ledger: Ledger, x: Value, pads: Sequence[int], constant: bool) -> Axes:
    """`pads` are (before, after) pairs from the last dimension on. Channels of padding are alike, and cannot leave."""
    kept = []
    for axis in x.axes:
        touched = [
            (d, tuple(pads[2 * i : 2 * i + 2])) for i, d in enumerate(range(x.rank - 1, -1, -1)) if 2 * i < len(pads)
        ]
        own = [(d, pad) for d, pad in touched if d in axis.dims and any(pad)]
        if own and (not constant or any(min(pad) < 0 for _, pad in own)):
            ledger.fix(axis, "pads it")
            continue
        for d, pad in own:
            axis = _extended(ledger, axis, d, pad)
        kept.append(axis)
    return tuple(kept)


def _extended(ledger: Ledger, axis: Axis, dim: int, pad: tuple[int, ...]) -> Axis:
    parts = [axis]
    for side, count in enumerate(pad):
        if count:
            more = ledger.fresh([count if d == dim else size for d, size in enumerate(axis.atoms.shape)])
            ledger.keep_whole(more, "fills it with a constant")
            parts.insert(len(parts) if side else 0, more)
    return Axis(*(np.concatenate([getattr(p, f) for p in parts], dim) for f in ("atoms", "lanes")))


def moved(ledger: Ledger, x: Value, source: np.ndarray) -> Axes:
    """Reshapes, transposes, slices and the like: `source` holds for every position of the result its position in x."""
    kept = []
    for axis in x.axes:
        atoms, lanes = (np.broadcast_to(a, x.shape).reshape(-1)[source] for a in (axis.atoms, axis.lanes))
        new = _moved(atoms, lanes, np.broadcast_to(_positions_beside(axis, x.shape), x.shape).reshape(-1)[source])
        if isinstance(new, str):
            ledger.fix(Axis(np.unique(atoms), np.zeros(0, np.int64)), new)
        else:
            kept.append(new)
    return tuple(kept)


def _moved(atoms: np.ndarray, lanes: np.ndarray, rest: np.ndarray) -> Axis | str:
    """An axis of what stands at every position after a movement, or a reason why it cannot be followed.

    `rest` is the position along the dimensions that the axis did not cover. Together with lanes it says what else a
    position is but a channel: where that is merged into the dimensions of the channels it makes new lanes, and where
    lanes have come apart from channels they are none any more.
    """
    rest = lanes * (int(rest.max(initial=0)) + 1) + rest
    dims = [d for d in range(atoms.ndim) if _varies(atoms, d)]
    if not dims:
        return "takes one channel by itself"
    shape = atoms.shape
    order = [*dims, *(d for d in range(len(shape)) if d not in dims)]
    count = int(np.prod([shape[d] for d in dims]))
    atoms, rest = (a.transpose(order).reshape(count, -1) for a in (atoms, rest))
    lane = _ranked(rest[:, 0])
    first = np.unique(lane, return_index=True)[1]
    # Positions of one lane must be one in all rows beside them, and those of two lanes never.
    if not np.array_equal(rest[first][lane], rest) or _repeats(rest[first]):
        return "mixes it with other dimensions"
    sizes = [size if d in dims else 1 for d, size in enumerate(shape)]
    return Axis(atoms[:, 0].reshape(sizes), lane.reshape(sizes))


def _positions_beside(axis: Axis, shape: Shape) -> np.ndarray:
    beside = [1 if d in axis.dims else size for d, size in enumerate(shape)]
    return np.arange(int(np.prod(beside))).reshape(beside)


def _varies(values: np.ndarray, dim: int) -> bool:
    first = np.take(values, [0], dim) if values.shape[dim] else values
    return bool((values != first).any())


def _ranked(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1].reshape(values.shape)


def _repeats(lanes: np.ndarray) -> bool:
    """Whether two lanes are the same position in some row; `[lanes, rows]`."""
    ordered = np.sort(lanes, 0)
    return bool((ordered[1:] == ordered[:-1]).any())


def unknown(ledger: Ledger, values: Sequence[Value], reason: str) -> Axes:
    """Fix everything that an operator touches."""
    for value in values:
        for axis in value.axes:
            ledger.fix(axis, reason)
    return ()
