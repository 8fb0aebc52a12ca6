"""Blocks of more rows than registers hold pass over their columns several times, in tiles of even width."""

from __future__ import annotations

import itertools
import re
from functools import partial

import pytest
import torch
from torch import nn

import monstera as ms
from monstera.compiler.kernels.spmm import Run, spmm_source
from monstera.compiler.program import Loop
from monstera.compiler.targets import TARGETS, Target, native
from monstera.measure import held_to, in_blocks


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_a_tile_of_as_many_rows_as_are_summed_up_at_once_fits_the_registers(target: Target):
    registers = 16 if target.name == "avx2" else 32
    for rows, tile in target.tiles.items():
        at_once = min(rows, target.rows)
        # Beside the sums, the fewer of a column's vectors and weights are held, and one of the others, unless a
        # multiply-add reads it from memory.
        held = 1 if target.broadcasts else min(at_once, tile) + 1
        assert at_once * tile + held <= registers


@pytest.mark.parametrize(("rows", "passes"), [(2, 1), (4, 1), (8, 2), (16, 4)])
def test_a_tile_is_called_once_for_every_pass(rows, passes):
    text = spmm_source("kernel", rows, {6}, "act_none", Loop(rows=4))
    assert f"for (int r = 0; r < {rows}; r += 4)" in text if passes > 1 else "int r = 0; r < " not in text
    # Every pass reads its own weights of a column that has `rows` of them.
    assert f"i++, w += {rows})" in text


@pytest.mark.parametrize(
    ("vectors", "chunk", "tile"), [c for c in itertools.product(range(1, 30), (3, 6, 7, 40), (1, 3, 7)) if c[1] >= c[2]]
)
@pytest.mark.parametrize("half", [False, True])
def test_tiles_are_as_good_as_equal_and_no_wider_than_allowed(vectors, chunk, tile, half):
    widths = Run(vectors, chunk, tile, half, by_blocks=True).widths([(0, vectors)], 1)
    assert max(widths) <= 2 * tile
    assert min(widths) >= 1
    assert any(width % 2 for width in widths) == half
    if chunk >= vectors:
        assert max(widths) - min(widths) <= 2 + half


@pytest.mark.parametrize("side", [5, 7, 12, 29])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_answers_of_blocks_of_eight_are_right(side, density):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 16, 1)).eval()
    for conv in (model[0], model[2]):
        kept = torch.rand(len(conv.weight) // 8, *conv.weight.shape[1:]) < density
        kept[:, :, 0, 0] = True  # every filter and channel lives, so that all rows are there in eights
        conv.weight.data *= kept.repeat_interleave(8, 0)
    x = torch.randn(2, 12, side, side)
    tuning = held_to(partial(in_blocks, rows=8), model, x, target=native().name)
    engine = ms.compile(model, x, tuning=tuning)
    assert set(re.findall(r"f32_spmm_planes_(\d+)x", engine.c_source)) == {"8"}
    torch.testing.assert_close(engine(x), model(x), rtol=1e-4, atol=1e-5)
