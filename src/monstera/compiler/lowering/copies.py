"""Steps that copy a value: into another layout, into phase planes, or a part of it into a part of another value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from monstera.compiler.layout import Layout, Planes
from monstera.compiler.lowering.windows import as_five, grid_args, windows
from monstera.compiler.program import Field, GridArgs, Kernel, Read, Ref, Step, Sweep, Work

COPY = Kernel("copy", "copy.h")
TRANSPOSE = Kernel("transpose", "copy.h")
SPLIT = Kernel("split", "split.h")


def copy_steps(
    layer: str,
    title: str,
    source: Ref,
    strides: Sequence[int],
    into: Layout,
    to: Ref,
    clears: tuple[tuple[Ref, int], ...],
) -> Iterator[Step]:
    """The steps that fill all of a layout, one for each of its phases, from a tensor of the same shape."""
    image, channel, depth, row, column = as_five(strides, 0)
    n, c, d, _, _ = as_five(into.shape, 1)
    for phase, window in enumerate(windows(into)):
        (y0, x0), (sy, sx) = window.pixel, window.step
        fields = _copy_fields((image, channel, depth, row * sy, column * sx), (n, c, d, *window.count), window.grid)
        fields |= {"y_channel": window.channel, "whole": int(isinstance(into, Planes))}
        plane = to + window.offset
        operands = (source + (y0 * row + x0 * column), plane + window.first, window.first, plane)
        work = Work(bytes=8 * n * c * d * window.count[0] * window.count[1])
        pads = clears if phase == 0 else ()
        # Rows of neighbouring channels, seen across: whole squares are turned at once.
        across = channel == 1 < min(c, column * sx) and (d, window.count[0], window.first) == (1, 1, 0)
        kernel = TRANSPOSE if across else COPY
        yield Step(layer, title, kernel, "copy_args", fields, operands, writes=(to.name,), clears=pads, work=work)


def paste_step(
    layer: str,
    title: str,
    source: Ref,
    strides: Sequence[int],
    count: tuple[int, ...],
    value: str,
    grid: GridArgs,
    to: Ref,
) -> Step:
    """The step that copies `count` elements in each dimension to a place in a value that lies on a grid."""
    fields = _copy_fields(as_five(strides, 0), as_five(count, 1), grid) | {"y_channel": grid.plane, "whole": 0}
    work, operands = Work(bytes=8 * prod(count)), (source, to, 0, to)
    return Step(layer, title, COPY, "copy_args", fields, operands, writes=(value,), work=work)


def split_step(
    layer: str,
    title: str,
    source: Ref,
    strides: Sequence[int],
    into: Planes,
    to: Ref,
    phase: Ref,
    reads: tuple[Read, ...] | None,
) -> Step:
    """The step that splits a tensor into phase planes; `phase` is the table of `phase_planes`, `reads` its rows."""
    image, channel, depth, row_stride, _ = as_five(strides, 0)
    grid = into.grid
    fields: dict[str, Field] = {
        "x": source,
        "y": to,
        "x_row": row_stride,
        "x_slice": depth,
        "x_channel": channel,
        "x_image": image,
        "h": into.h,
        "w": into.w,
        "y_grid": replace(grid_args(into), h=grid.rows, w=grid.pitch),
        "y_channel": into.plane(1),
        "step_h": into.step[0],
        "step_w": into.step[1],
        "origin_h": into.origin[0],
        "origin_w": into.origin[1],
        "phase": phase,
    }
    sweep = None if reads is None else Sweep(grid.rows, grid.pitch, into.c, to.name, reads)
    work = Work(bytes=8 * prod(into.shape))
    return Step(layer, title, SPLIT, "split_args", fields, writes=(to.name,), work=work, sweep=sweep)


def phase_planes(into: Planes) -> np.ndarray:
    """int32, for each phase in row-major order which plane of a channel it is, -1 for one that is not kept."""
    step_h, step_w = into.step
    phase = np.full(step_h * step_w, -1, np.int32)
    for plane, (row, column) in enumerate(into.kept):
        phase[row * step_w + column] = plane
    return phase


def _copy_fields(strides: Sequence[int], extent: Sequence[int], grid: GridArgs) -> dict[str, Field]:
    names = ("x_image", "x_channel", "x_slice", "x_row", "x_column")
    return {**dict(zip(names, strides, strict=True)), **dict(zip("ncdhw", extent, strict=True)), "y": grid}
