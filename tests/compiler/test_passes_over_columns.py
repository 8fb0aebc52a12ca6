"""Blocks of more rows than registers hold pass over their columns several times, in tiles of even width."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import monstera as ms
from monstera.compiler.frontends import from_torch
from monstera.compiler.kernels.spmm import Run, spmm_source
from monstera.compiler.lowering import lower
from monstera.compiler.passes import optimize
from monstera.compiler.program import Loop
from monstera.compiler.targets import TARGETS, Target, native
from monstera.pruning import prune
from monstera.sparsity import Plan

RUNS_AVX2 = native().name in ("avx512", "avx2")


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


@pytest.mark.skipif(not RUNS_AVX2, reason="avx2 code cannot run here")
@pytest.mark.parametrize("side", [5, 7, 12, 29])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_answers_of_blocks_of_eight_are_right(side, density):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 16, 1)).eval()
    if density < 1:
        prune(model, Plan.uniform(model, "8x1", density, skip=()))
    x = torch.randn(2, 12, side, side)
    program = lower(optimize(from_torch(model, (x,)).graph), TARGETS["avx2"])
    assert {8} <= {step.kernel.rows for step in program.steps}
    torch.testing.assert_close(ms.compile(model, x, target="avx2", tune="none")(x), model(x), rtol=1e-4, atol=1e-5)
