"""Which stretches of a plane a convolution runs over: all of it, or slices that read the same taps in depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from monstera.compiler.layout import Planes
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.program import Ref
from monstera.compiler.taps import Axis, slabs_of


@dataclass(frozen=True, slots=True)
class Stretch:
    """One flat run: it begins `x` and `y` floats behind the first pixels of the input's and the output's planes.

    `run` floats from its first pixel to its last, both counted; zeros follow up to `tail`. It reads the taps in depth
    from `begin` up to `end`.
    """

    x: int
    y: int
    run: int
    tail: int
    begin: int
    end: int

    def vectors(self, lanes: int) -> int:
        """Vectors that the run fills, the last one perhaps in part."""
        return -(-self.run // lanes)

    def ends_in_half(self, lanes: int) -> bool:
        """Whether half a vector is enough for what its last vector holds."""
        return 0 < self.run % lanes <= lanes // 2


def stretches_of(depth: Axis, inside: Planes, layout: Planes, *, apart: bool = False) -> list[Stretch]:
    """Cut a plane of the output into the runs that one table of offsets serves, in order; `apart` every slice alone."""
    slabs = slabs_of(depth)
    if apart:
        slabs = [replace(slab, first=z, past=z + 1) for slab in slabs for z in range(slab.first, slab.past)]
    # Images that lie alike follow each other like slices do.
    if len(slabs) == 1 and (layout.n == 1 or inside.grid.image == layout.grid.image):
        return [Stretch(0, 0, layout.run(), layout.grid.stride, slabs[0].begin, slabs[0].end)]
    into, source = layout.grid, inside.grid
    places = [(n, slab) for n in range(layout.n) for slab in slabs]
    starts = [n * into.image + slab.first * into.slice for n, slab in places]
    return [
        Stretch(
            x=n * source.image + slab.first * depth.stride * source.slice,
            y=start,
            run=layout.run(slab.past - slab.first),
            tail=following - start,
            begin=slab.begin,
            end=slab.end,
        )
        for (n, slab), start, following in zip(places, starts, [*starts[1:], into.stride], strict=True)
    ]


def tap_ranges(stretches: Sequence[Stretch]) -> list[tuple[int, int]]:
    """The ranges of taps in depth that occur, the longest first."""
    return sorted({(s.begin, s.end) for s in stretches}, key=lambda taps: (taps[0] - taps[1], taps))


def stretch_table(low: Lowering, stretches: Sequence[Stretch]) -> Ref | None:
    """The C table of stretches: x, y, tail, vectors, half, and which of the `tap_ranges`; None for a single one."""
    if len(stretches) == 1:
        return None
    lanes, ranges = low.target.lanes, tap_ranges(stretches)
    rows = [
        (
            *(s.x, s.y, s.tail),
            s.vectors(lanes),
            low.target.halves and s.ends_in_half(lanes),
            ranges.index((s.begin, s.end)),
        )
        for s in stretches
    ]
    return low.table(np.array(rows, np.int32))
