"""Where a tensor lies in memory: dense, or one padded plane per channel (design: the layout contract).

A plane is one flat run of rows of `pitch` floats. The right pad of a row is the left pad of the next, the rows below
a slice of the depth are the rows above the next one (or above the next image of a batch), and the end of a plane is
the top pad of the next plane; all of it holds zeros whenever a consumer reads. So a convolution tap is a constant
offset, for any batch. Depth is never padded: who reads other slices leaves out the taps that would read beyond the
first or the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

LINE = 16  # floats in a cache line; planes start on one


@dataclass(frozen=True, slots=True)
class Flat:
    """Row-major, no gaps."""

    shape: tuple[int, ...]

    @property
    def lead(self) -> int:
        """Floats before the first value."""
        return 0

    @property
    def size(self) -> int:
        """Floats in all."""
        return prod(self.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """Floats between neighbours in each dimension."""
        return tuple(prod(self.shape[i + 1 :]) for i in range(len(self.shape)))


@dataclass(frozen=True, slots=True)
class Grid:
    """What tensors of one class share: floats a row, rows a slice, floats a plane, floats before the first plane.

    `slices` is the tensor's own depth, and `stride` counts them.
    """

    pitch: int
    rows: int
    stride: int
    lead: int
    slices: int = 1

    @property
    def slice(self) -> int:
        """Floats between two slices."""
        return self.rows * self.pitch

    @property
    def image(self) -> int:
        """Floats between two images of a batch."""
        return self.slices * self.slice


@dataclass(frozen=True, slots=True)
class Planes:
    """`[n, c, d, h, w]` as planes on a grid, split into phases when a strided convolution reads it.

    `rank` is the tensor's own: of its spatial dimensions the first may be missing here, and they are one.

    With `step` (sy, sx) the *padded* coordinate (y + origin_y, x + origin_x) lies in phase (Y % sy, X % sx) at row
    Y // sy, column X // sx; only the phases in `kept` exist, in that order, as neighbouring planes of a channel.
    """

    n: int
    c: int
    h: int
    w: int
    grid: Grid
    step: tuple[int, int] = (1, 1)
    origin: tuple[int, int] = (0, 0)
    kept: tuple[tuple[int, int], ...] = ((0, 0),)
    d: int = 1
    rank: int = 4

    @property
    def lead(self) -> int:
        """Zeros before the first plane: the top pad of plane 0."""
        return self.grid.lead

    @property
    def size(self) -> int:
        """Floats in all, the lead not counted."""
        return self.c * len(self.kept) * self.grid.stride

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.n, self.c, *(self.d, self.h, self.w)[5 - self.rank :]

    @property
    def strides(self) -> tuple[int, ...]:
        """Floats between neighbours in each dimension of the tensor (unphased layouts)."""
        g = self.grid
        return (g.image, g.stride, *(g.slice, g.pitch, 1)[5 - self.rank :])

    def plane(self, channel: int) -> int:
        """Where a channel's first plane starts, in floats from plane 0."""
        return channel * len(self.kept) * self.grid.stride

    def tap(self, channel: int, dy: int, dx: int, dz: int = 0) -> int:
        """The offset from output pixel (y, x) to what a tap reads there: input (y * step + dy, x * step + dx).

        `dz` slices further on, as slices are not split into phases.
        """
        row, phase_y = divmod(dy + self.origin[0], self.step[0])
        column, phase_x = divmod(dx + self.origin[1], self.step[1])
        phase = self.kept.index((phase_y, phase_x)) * self.grid.stride
        return self.plane(channel) + phase + dz * self.grid.slice + row * self.grid.pitch + column

    def run(self, slices: int | None = None) -> int:
        """Floats from the first pixel to the last of so many slices, both counted (default: of a whole plane)."""
        slices = self.n * self.d if slices is None else slices
        return ((slices - 1) * self.grid.rows + self.h - 1) * self.grid.pitch + self.w

    @property
    def apart(self) -> bool:
        """Whether the vector that holds a slice's last pixel ends before the next slice begins, wherever it starts."""
        return self.run(1) + LINE - 1 <= self.grid.slice

    def pixels(self) -> np.ndarray:
        """Bool, one value a float of a plane: does it hold a pixel? (unphased layouts)."""
        g = self.grid
        plane = np.zeros(g.stride, bool)
        slices = plane[: self.n * g.image].reshape(-1, g.rows, g.pitch)
        slices[:, : self.h, : self.w] = True
        return plane


Layout: TypeAlias = Flat | Planes


def three(sizes: tuple[int, ...], fill: int) -> tuple[int, int, int]:
    """Numbers for (depth, height, width) from those for the last one, two or three of them."""
    depth, height, width = (fill,) * (3 - len(sizes)) + sizes
    return depth, height, width


def odd_lines(floats: int) -> int:
    """The next odd number of cache lines: planes a multiple of 4096 bytes apart would fight for the same cache sets."""
    return (-(-floats // LINE) | 1) * LINE


def lane_masks(pixels: np.ndarray, lanes: int) -> np.ndarray:
    """uint16, one a vector of `lanes`: bit i says that lane i holds a pixel; `pixels` is bool of any length."""
    padded = np.zeros(-(-len(pixels) // lanes) * lanes, bool)
    padded[: len(pixels)] = pixels
    weights = (1 << np.arange(lanes)).astype(np.uint32)
    return (padded.reshape(-1, lanes) * weights).sum(1).astype(np.uint16)
