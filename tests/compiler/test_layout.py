"""Planes, phases and grids: a tap must read what the convolution means, for any rank, stride, padding and batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from monstera.compiler.grids import choose_layouts
from monstera.compiler.ir import Conv, Graph, Node
from monstera.compiler.layout import Grid, Planes, lane_masks, odd_lines, three
from monstera.compiler.lowering.stretches import Stretch, stretches_of
from monstera.compiler.lowering.windows import windows
from monstera.compiler.taps import taps_of

Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A convolution of two channels with one filter, and where it was decided that its values lie."""

    op: Conv
    kernel: Numbers
    source: Numbers
    out: Numbers

    @cached_property
    def layouts(self) -> tuple[Planes, Planes]:
        weight = np.ones((1, 2, *self.kernel), np.float32)
        node = Node("y", self.op, ("x",), self.out)
        layouts = choose_layouts(Graph((("x", self.source),), (node,), ("y",), {"w": weight}))
        out = layouts.values["y"]
        assert isinstance(out, Planes)
        return layouts.inputs["y"], out

    @cached_property
    def stretches(self) -> list[Stretch]:
        return stretches_of(taps_of(self.op, self.kernel, self.source, self.out).z, *self.layouts)

    def places(self) -> np.ndarray:
        """For every output pixel `[n, d, h, w]` where it lies, in floats from the first one of its plane."""
        grid = self.layouts[1].grid
        n, d, h, w = np.indices((self.out[0], *three(self.out[2:], 1)))
        return n * grid.image + d * grid.slice + h * grid.pitch + w


@st.composite
def cases(draw, most: int = 9) -> Case:
    """Convolutions over 1 to 3 dimensions with more than one output pixel."""
    k = draw(st.integers(1, 3))
    size, kernel = [draw(st.integers(1, most)) for _ in range(k)], [draw(st.integers(1, 4)) for _ in range(k)]
    stride, dilation = [draw(st.integers(1, 3)) for _ in range(k)], [draw(st.integers(1, 3)) for _ in range(k)]
    padding = [draw(st.integers(0, 5)) for _ in range(2 * k)]
    out = [
        (n + before + after - d * (taps - 1) - 1) // s + 1
        for n, before, after, d, taps, s in zip(size, padding[:k], padding[k:], dilation, kernel, stride, strict=True)
    ]
    assume(min(out) > 0 and prod(out) > 1)
    batch = draw(st.integers(1, 3))
    op = Conv("w", stride=tuple(stride), padding=tuple(padding), dilation=tuple(dilation))
    return Case(op, tuple(kernel), (batch, 2, *size), (batch, 1, *out))


def _laid_out(x: np.ndarray, layout: Planes) -> np.ndarray:
    """What memory holds of `[n, c, d, h, w]`, by the layout's definition; zeros elsewhere; index 0 is `lead` before."""
    memory = np.zeros(layout.lead + layout.size + 4096)
    g = layout.grid
    for (n, c, z, y, column), value in np.ndenumerate(x):
        row, phase_y = divmod(y + layout.origin[0], layout.step[0])
        place, phase_x = divmod(column + layout.origin[1], layout.step[1])
        if (phase_y, phase_x) not in layout.kept or row >= g.rows or place >= g.pitch:
            continue
        plane = layout.plane(c) + layout.kept.index((phase_y, phase_x)) * g.stride
        memory[layout.lead + plane + ((n * g.slices + z) * g.rows + row) * g.pitch + place] = value
    return memory


@given(case=cases())
def test_a_tap_is_a_constant_offset_for_every_output_pixel_of_a_stretch(case):
    inside, out = case.layouts
    assert (inside.grid.pitch, inside.grid.rows) == (out.grid.pitch, out.grid.rows)
    taps = taps_of(case.op, case.kernel, case.source, case.out)
    x = np.random.default_rng(0).standard_normal((*case.source[:2], *three(case.source[2:], 1)))
    memory = _laid_out(x, inside)
    # Padding in height and width is zeros; depth has none, and whoever asks for it fails.
    padded = np.pad(x[:, 1], ((0, 0), (0, 0), (64, 64), (64, 64)))
    places, (depth, height, width) = case.places(), (np.arange(axis.out) * axis.stride for axis in taps)
    for stretch in case.stretches:
        mine = (places >= stretch.y) & (places < stretch.y + stretch.run)
        image, z = np.nonzero(mine.any((2, 3)))
        assert mine[image, z].all(), "a stretch ends in the middle of a slice"
        for k, i, j in product(range(stretch.begin, stretch.end), taps.y.alive, taps.x.alive):
            dz, dy, dx = taps.z.offsets[k], taps.y.offsets[i], taps.x.offsets[j]
            got = memory[inside.lead + stretch.x + inside.tap(1, dy, dx, dz) + places[image, z] - stretch.y]
            np.testing.assert_array_equal(got, padded[image, depth[z] + dz][:, 64 + dy + height][:, :, 64 + dx + width])


@given(case=cases())
def test_stretches_do_every_slice_once_with_all_taps_that_read_no_padding_in_depth(case):
    depth, places = taps_of(case.op, case.kernel, case.source, case.out).z, case.places()
    done = np.zeros(places.shape, int)
    for stretch in case.stretches:
        mine = (places >= stretch.y) & (places < stretch.y + stretch.run)
        done += mine
        for z in np.nonzero(mine.any((0, 2, 3)))[0]:
            reading = [k for k in range(len(depth.offsets)) if depth.reads(k, int(z))]
            assert set(reading) <= set(range(stretch.begin, stretch.end))
            assert len(case.stretches) == 1 or len(reading) == stretch.end - stretch.begin
    assert (done == 1).all()


@given(case=cases(most=5), lanes=st.sampled_from([4, 8, 16]))
def test_a_stretch_ends_a_vector_before_the_next_pixel(case, lanes):
    places, stride = case.places().reshape(-1), case.layouts[1].grid.stride
    for stretch in case.stretches:
        end = stretch.y + stretch.vectors(lanes) * lanes
        assert end <= stride
        assert not ((places >= stretch.y + stretch.run) & (places < end)).any()
        assert stretch.y + stretch.tail == min([stride, *(s.y for s in case.stretches if s.y > stretch.y)])


def test_images_that_lie_alike_are_one_stretch_and_slices_in_the_middle_too():
    def stretches(kernel, padding, stride=1, depth=9):
        out = (depth + 2 * padding - kernel) // stride + 1
        op = Conv("w", stride=(stride, 1, 1), padding=(padding, 0, 0) * 2, dilation=(1, 1, 1))
        case = Case(op, (kernel, 1, 1), (2, 2, depth, 5, 5), (2, 1, out, 5, 5))
        return [(s.begin, s.end, -(-s.run // case.layouts[1].grid.slice)) for s in case.stretches]

    assert stretches(1, 0) == [(0, 1, 18)]
    assert stretches(3, 1) == 2 * [(1, 3, 1), (0, 3, 7), (0, 2, 1)]
    assert stretches(3, 0) == 2 * [(0, 3, 7)]
    assert stretches(3, 1, stride=2) == 2 * [(1, 3, 1), *3 * [(0, 3, 1)], (0, 2, 1)]
    assert stretches(3, 3, depth=1) == 2 * [(0, 0, 1), (2, 3, 1), (1, 2, 1), (0, 1, 1), (0, 0, 1)]


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
