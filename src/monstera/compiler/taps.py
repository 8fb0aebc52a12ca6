"""What a convolution reads: its taps in input coordinates, and which of them meet nothing but padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from monstera.compiler.ir import Conv, Shape
from monstera.compiler.layout import three


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension: tap i reads input pixel `output * stride + offsets[i]` of `size`, for each of `out` outputs."""

    offsets: tuple[int, ...]
    stride: int
    size: int
    out: int

    @property
    def alive(self) -> tuple[int, ...]:
        """The taps that read a pixel for some output; the others meet padding for all of them."""
        return tuple(i for i in range(len(self.offsets)) if any(self.reads(i, o) for o in range(self.out)))

    @property
    def reach(self) -> tuple[int, int]:
        """The smallest and the largest offset among the taps that read anything (0 if none does)."""
        offsets = [self.offsets[i] for i in self.alive] or [0]
        return min(offsets), max(offsets)

    def reads(self, tap: int, output: int) -> bool:
        """Whether a tap reads a pixel, and not padding, for an output."""
        return 0 <= output * self.stride + self.offsets[tap] < self.size


@dataclass(frozen=True, slots=True)
class Taps:
    """The taps of a convolution by dimension: depth, height and width, missing ones of one pixel and one tap."""

    z: Axis
    y: Axis
    x: Axis

    def __iter__(self) -> Iterator[Axis]:
        return iter((self.z, self.y, self.x))

    @property
    def kernel(self) -> tuple[int, int, int]:
        """How many taps there are in depth, height and width."""
        return len(self.z.offsets), len(self.y.offsets), len(self.x.offsets)


def taps_of(op: Conv, kernel: Shape, source: Shape, out: Shape) -> Taps:
    """The taps of a convolution over images of shape `source`, giving `out`."""
    rank = len(kernel)
    dimensions = zip(
        *(three(kernel, 1), three(op.stride, 1), three(op.padding[:rank], 0), three(op.dilation, 1)),
        *(three(source[2:], 1), three(out[2:], 1)),
        strict=True,
    )
    return Taps(*(Axis(tuple(i * d - p for i in range(k)), s, n, m) for k, s, p, d, n, m in dimensions))


@dataclass(frozen=True, slots=True)
class Slab:
    """Output slices `first` up to `past`, which read the same taps of the depth: `begin` up to `end`."""

    first: int
    past: int
    begin: int
    end: int


def slabs_of(depth: Axis) -> list[Slab]:
    """Deal the output slices into runs for which a tap reads input slices at a constant distance, and no padding.

    With a stride in depth every slice is a run of its own.
    """

    def taps(o: int) -> tuple[int, int, int]:
        reading = [i for i in range(len(depth.offsets)) if depth.reads(i, o)]
        begin, end = (reading[0], reading[-1] + 1) if reading else (0, 0)
        return begin, end, o if depth.stride > 1 else 0

    runs = ((key, list(slices)) for key, slices in groupby(range(depth.out), taps))
    return [Slab(slices[0], slices[-1] + 1, begin, end) for (begin, end, _), slices in runs]
