"""Planes, phases and grids: a tap must read what the convolution means, for any stride, padding and batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monstera.compiler.grids import choose_layouts
from monstera.compiler.ir import Conv, Graph, Node
from monstera.compiler.layout import Grid, Planes, lane_masks, odd_lines
from monstera.compiler.lowering.windows import windows

sizes = st.integers(1, 9)


def _laid_out(x: np.ndarray, layout: Planes) -> np.ndarray:
    """What memory holds, pixel by pixel from the layout's definition; zeros elsewhere; index 0 is `lead` before."""
    memory = np.zeros(layout.lead + layout.size + 4096)
    g = layout.grid
    for (n, c, y, column), value in np.ndenumerate(x):
        row, phase_y = divmod(y + layout.origin[0], layout.step[0])
        place, phase_x = divmod(column + layout.origin[1], layout.step[1])
        if (phase_y, phase_x) not in layout.kept or row >= g.rows or place >= g.pitch:
            continue
        plane = layout.plane(c) + layout.kept.index((phase_y, phase_x)) * g.stride
        memory[layout.lead + plane + (n * g.rows + row) * g.pitch + place] = value
    return memory


@given(
    n=st.integers(1, 3),
    size=st.tuples(sizes, sizes),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(*[st.integers(0, 5)] * 4),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 99),
)
def test_a_tap_is_a_constant_offset_for_every_output_pixel(n, size, kernel, stride, padding, dilation, seed):
    height, width = (
        (size[i] + padding[i] + padding[i + 2] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)
    )
    if height < 1 or width < 1 or height * width == 1:
        return
    op = Conv("w", stride=stride, padding=padding, dilation=dilation)
    shapes = (n, 2, *size), (n, 1, height, width)
    weight = np.ones((1, 2, *kernel), np.float32)
    graph = Graph((("x", shapes[0]),), (Node("y", op, ("x",), shapes[1]),), ("y",), {"w": weight})
    layouts = choose_layouts(graph)
    inside, out = layouts.inputs["y"], layouts.values["y"]
    assert isinstance(out, Planes)
    assert inside.grid.pitch == out.grid.pitch
    assert inside.grid.rows == out.grid.rows
    x = np.random.default_rng(seed).standard_normal(shapes[0])
    memory = _laid_out(x, inside)
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0], 64), (padding[1], 64)))
    for ky, kx in np.ndindex(*kernel):
        dy, dx = ky * dilation[0] - padding[0], kx * dilation[1] - padding[1]
        reads = [o * stride[0] + dy for o in range(height)], [o * stride[1] + dx for o in range(width)]
        if not any(0 <= r < size[0] for r in reads[0]) or not any(0 <= r < size[1] for r in reads[1]):
            continue  # such taps are dropped: they read padding only
        for image, oy, ox in np.ndindex(n, height, width):
            place = (image * out.grid.rows + oy) * out.grid.pitch + ox
            got = memory[inside.lead + inside.tap(1, dy, dx) + place]
            y, column = oy * stride[0] + dy + padding[0], ox * stride[1] + dx + padding[1]
            assert got == padded[image, 1, y, column]


@given(size=st.integers(1, 10_000))
def test_plane_strides_are_an_odd_number_of_lines_that_hold_the_plane(size):
    stride = odd_lines(size)
    assert stride >= size
    assert stride % 16 == 0
    assert stride // 16 % 2 == 1
    assert stride - size < 32


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("length", [1, 3, 15, 16, 17, 33])
def test_lane_masks_say_bit_by_bit_which_lanes_hold_pixels(lanes, length):
    pixels = np.random.default_rng(length).random(length) < 0.5
    masks = lane_masks(pixels, lanes)
    bits = [bool(masks[i // lanes] >> (i % lanes) & 1) for i in range(len(masks) * lanes)]
    assert bits[:length] == pixels.tolist()
    assert not any(bits[length:])


def test_phases_cover_every_pixel_of_an_odd_image_once():
    layout = Planes(1, 1, 7, 5, Grid(4, 5, odd_lines(20), 0), (2, 2), (1, 1), ((0, 0), (0, 1), (1, 0), (1, 1)))
    assert sum(w.count[0] * w.count[1] for w in windows(layout)) == 35
