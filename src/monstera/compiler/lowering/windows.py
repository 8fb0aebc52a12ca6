"""Which part of a tensor goes where in a layout: dense, planes or phases, as the C copy kernel wants to be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from monstera.compiler.layout import Flat, Layout, Planes
from monstera.compiler.program import GridArgs


class RankError(ValueError):
    """A tensor has more dimensions than the kernels can take."""


@dataclass(frozen=True, slots=True)
class Window:
    """Where one phase of a tensor goes: see `copy_args`."""

    offset: int  # floats from plane 0 to this phase's first plane
    channel: int  # floats between channels
    first: int  # floats from the plane's start to the first pixel in it
    pixel: tuple[int, int]  # the image coordinates of that pixel
    step: tuple[int, int]
    count: tuple[int, int]
    grid: GridArgs


def windows(layout: Layout) -> list[Window]:
    """One window for a dense tensor or plain planes, one for each phase that a layout keeps."""
    if isinstance(layout, Flat):
        grid = grid_args(layout)
        return [Window(0, grid.plane, 0, (0, 0), (1, 1), (grid.h, grid.w), grid)]
    return [_phase(layout, i) for i in range(len(layout.kept))]


def _phase(layout: Planes, index: int) -> Window:
    grid, (sy, sx), (phase_y, phase_x) = layout.grid, layout.step, layout.kept[index]
    row, y = _first_pixel(phase_y, layout.origin[0], sy)
    column, x = _first_pixel(phase_x, layout.origin[1], sx)
    # Rows and columns beyond the grid are read by nobody.
    rows = max(0, min(-(-(layout.h - y) // sy), grid.rows - row))
    columns = max(0, min(-(-(layout.w - x) // sx), grid.pitch - column))
    empty = rows * columns == 0
    return Window(
        offset=index * grid.stride,
        channel=len(layout.kept) * grid.stride,
        first=row * grid.pitch + column,
        pixel=(0, 0) if empty else (y, x),
        step=layout.step,
        count=(0, 0) if empty else (rows, columns),
        grid=replace(grid_args(layout), h=rows, w=columns),
    )


def _first_pixel(phase: int, origin: int, step: int) -> tuple[int, int]:
    """The first row of a phase that holds a pixel (not padding), and that pixel's coordinate."""
    row = max(0, -(-(origin - phase) // step))
    return row, row * step + phase - origin


def grid_args(layout: Layout) -> GridArgs:
    """The C view of an unphased layout; a dense tensor counts as `[n, c, d, h, w]` (see `as_five`)."""
    if isinstance(layout, Planes):
        g = layout.grid
        extent = (layout.n, layout.c, layout.d, layout.h, layout.w)
        return GridArgs(*extent, g.pitch, g.slice, g.image, g.stride, g.stride)
    n, c, d, h, w = as_five(layout.shape, 1)
    return GridArgs(n, c, d, h, w, w, h * w, c * d * h * w, d * h * w)


def as_five(values: Sequence[int], fill: int) -> tuple[int, int, int, int, int]:
    """Numbers for (n, c, d, h, w) from those for the dimensions of a tensor.

    From three on they are `[N, C, *spatial]`, and depth or height may be missing; one or two are the last ones.

    Raises:
        RankError: there are more than five.
    """
    missing = 5 - len(values)
    if missing < 0:
        raise RankError(f"cannot take a tensor of more than 5 dimensions; got {list(values)}")
    at = 2 if len(values) > 2 else 0
    n, c, d, h, w = *values[:at], *(fill,) * missing, *values[at:]
    return n, c, d, h, w
