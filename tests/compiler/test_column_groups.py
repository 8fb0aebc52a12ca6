"""Wide pointwise layers take their columns in groups that a cache holds, and runs that fit are one chunk."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import monstera as ms
from monstera.compiler.frontends import from_torch
from monstera.compiler.lowering import lower
from monstera.compiler.passes import optimize
from monstera.compiler.program import Step
from monstera.compiler.targets import TARGETS
from monstera.pruning import prune
from monstera.sparsity import Plan

TOKENS = 128


def _layer(inputs: int, density: float) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, 64), nn.GELU()).eval()
    prune(model, Plan.uniform(model, "4x1", density, skip=()))
    return model


def _product(model: nn.Module, inputs: int) -> Step:
    program = lower(optimize(from_torch(model, (torch.zeros(1, TOKENS, inputs),)).graph), TARGETS["avx512"])
    (step,) = (step for step in program.steps if step.struct == "spmm_args")
    return step


@pytest.mark.parametrize(
    ("inputs", "density", "groups", "chunk"),
    [
        # 128 tokens of 768 floats are what is kept for a chunk: two tiles of four vectors.
        (768, 0.25, 1, 8),
        (3072, 0.25, 4, 7),
        # A block of 77 columns would have too few in each of two groups.
        (3072, 0.025, 1, 7),
    ],
)
def test_what_outgrows_the_cache_is_cut_unless_blocks_have_few_columns(inputs, density, groups, chunk):
    fields = _product(_layer(inputs, density), inputs).fields
    assert (fields["groups"], fields["chunk"]) == (groups, chunk)


@pytest.mark.parametrize("target", ["native", "avx2"])
def test_sums_that_wait_between_groups_are_activated_once(target):
    model, x = _layer(3072, 0.25), torch.randn(2, TOKENS, 3072)
    engine = ms.compile(model, x, target=target, tune="none")
    torch.testing.assert_close(engine(x), model(x), rtol=1e-4, atol=1e-5)
