"""SpMM asks for what later columns read where columns lie apart, and never reads past its table of offsets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import monstera as ms
from monstera.compiler.frontends import from_torch
from monstera.compiler.lowering import lower
from monstera.compiler.passes import optimize
from monstera.compiler.program import Program, Ref, Step
from monstera.compiler.targets import TARGETS
from monstera.pruning import prune
from monstera.sparsity import Plan


def _layer(pattern: str, density: float) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)).eval()
    if density < 1:
        prune(model, Plan.uniform(model, pattern, density, skip=()))
    return model


def _lowered(model: nn.Module, target: str) -> tuple[Program, Step]:
    program = lower(optimize(from_torch(model, (torch.zeros(1, 16, 12, 12),)).graph), TARGETS[target])
    (step,) = (step for step in program.steps if step.struct == "spmm_args")
    return program, step


@pytest.mark.parametrize(
    ("pattern", "density", "target", "ahead"),
    [
        ("4x1", 0.25, "avx512", 2),
        ("8x1", 0.25, "avx512", 2),
        # The registers are half as wide, and there are fewer: a column passes in half the time or less.
        ("4x1", 0.25, "avx2", 8),
        ("8x1", 0.25, "avx2", 8),
        # Columns that are neighbours read the same lines, which is enough for the long vectors.
        ("4x1", 1.0, "avx512", 0),
        ("4x1", 1.0, "avx2", 8),
        # Single rows are busy with loads; nothing was measured there yet.
        ("unstructured", 0.25, "avx512", 0),
        ("4x1", 0.25, "neon", 0),
    ],
)
def test_columns_that_lie_apart_are_asked_for_early(pattern, density, target, ahead):
    assert _lowered(_layer(pattern, density), target)[1].kernel.loop.ahead == ahead


@pytest.mark.parametrize("target", ["avx512", "avx2"])
@pytest.mark.parametrize("density", [0.25, 1.0])
def test_the_offsets_go_on_as_far_as_the_kernel_looks(density, target):
    program, step = _lowered(_layer("4x1", density), target)
    beyond = step.kernel.loop.ahead
    offset, block = (
        program.tables[ref.name] for name in ("offset", "block") if isinstance(ref := step.fields[name], Ref)
    )
    start, _, length, _ = block.reshape(-1, 4).T
    assert offset.size == (start + length).max() + beyond
    assert (offset[-1 - beyond :] == offset[-1]).all()


@pytest.mark.parametrize("density", [0.25, 0.5, 1.0])
def test_answers_are_right_with_and_without(density):
    model, x = _layer("4x1", density), torch.randn(2, 16, 12, 12)
    torch.testing.assert_close(ms.compile(model, x, tune="none")(x), model(x), rtol=1e-4, atol=1e-5)
