"""What sums of products say about channels: matrix products, linear layers, convolutions, attention, look-ups.

What is summed over is of the same channels in both operands; what is not, the result has too. Rules are as in
`pointwise`.
"""

from __future__ import annotations

from monstera.sparsity.channels.axes import Axes, Axis, Ledger, Shape, Value
from monstera.sparsity.channels.pointwise import as_column, elementwise, unknown


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
    column = Value((bias.shape[0], *[1] * (x.rank - 2)), tuple(as_column(a, x.rank - 2) for a in bias.axes))
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
