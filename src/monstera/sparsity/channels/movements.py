"""What operators say about channels that put positions elsewhere: joins, paddings, reshapes, transposes and slices.

Rules are as in `pointwise`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monstera.sparsity.channels.axes import Axes, Axis, Ledger, Shape, Value


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
