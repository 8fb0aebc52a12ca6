"""Where a tensor lies in memory: dense, or one padded plane per channel (design: the layout contract).

A plane is one flat run of rows of `pitch` floats. The right pad of a row is the left pad of the next, the rows below an
image are the rows above the next image of the batch, and the end of a plane is the top pad of the next plane; all of it
holds zeros whenever a consumer reads. So a convolution tap is a constant offset, for any batch.
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


@dataclass(frozen=True, slots=True)
class Grid:
    """What tensors of one class share: floats a row, rows an image, floats a plane, floats before the first plane."""

    pitch: int
    rows: int
    stride: int
    lead: int


@dataclass(frozen=True, slots=True)
class Planes:
    """`[n, c, h, w]` as planes on a grid, split into phases when a strided convolution reads it.

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

    @property
    def lead(self) -> int:
        """Zeros before the first plane: the top pad of plane 0."""
        return self.grid.lead

    @property
    def size(self) -> int:
        """Floats in all, the lead not counted."""
        return self.c * len(self.kept) * self.grid.stride

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The tensor's shape."""
        return self.n, self.c, self.h, self.w

    def plane(self, channel: int) -> int:
        """Where a channel's first plane starts, in floats from plane 0."""
        return channel * len(self.kept) * self.grid.stride

    def tap(self, channel: int, dy: int, dx: int) -> int:
        """The offset from output pixel (y, x) to what a tap reads there: input (y * step + dy, x * step + dx)."""
        row, phase_y = divmod(dy + self.origin[0], self.step[0])
        column, phase_x = divmod(dx + self.origin[1], self.step[1])
        phase = self.kept.index((phase_y, phase_x)) * self.grid.stride
        return self.plane(channel) + phase + row * self.grid.pitch + column

    def run(self, h: int | None = None, w: int | None = None) -> int:
        """Floats from the first pixel of a plane to the last, both counted, for images of h x w (default: its own)."""
        h, w = self.h if h is None else h, self.w if w is None else w
        return ((self.n - 1) * self.grid.rows + h - 1) * self.grid.pitch + w

    def pixels(self) -> np.ndarray:
        """Bool, one value a float of a plane: does it hold a pixel? (unphased layouts)."""
        g = self.grid
        plane = np.zeros(g.stride, bool)
        images = plane[: self.n * g.rows * g.pitch].reshape(self.n, g.rows, g.pitch)
        images[:, : self.h, : self.w] = True
        return plane


Layout: TypeAlias = Flat | Planes


def odd_lines(floats: int) -> int:
    """The next odd number of cache lines: planes a multiple of 4096 bytes apart would fight for the same cache sets."""
    return (-(-floats // LINE) | 1) * LINE


def lane_masks(pixels: np.ndarray, lanes: int) -> np.ndarray:
    """uint16, one a vector of `lanes`: bit i says that lane i holds a pixel; `pixels` is bool of any length."""
    padded = np.zeros(-(-len(pixels) // lanes) * lanes, bool)
    padded[: len(pixels)] = pixels
    weights = (1 << np.arange(lanes)).astype(np.uint32)
    return (padded.reshape(-1, lanes) * weights).sum(1).astype(np.uint16)
