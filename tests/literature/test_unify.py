"""Micro-structured unification and pruning (Lin et al. 2021): operators, costs, storage and tied training by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from monstera.pruning import ADMM
from monstera.sparsity import Plan, Unify, magnitude
from monstera.sparsity.storage import UnifiedBlocks

BLOCKS = st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=12)


@given(BLOCKS)
def test_the_mean_of_absolute_values_is_the_best_magnitude_and_old_signs_the_best_signs(block: list[float]) -> None:
    weight = torch.tensor([block], dtype=torch.float64)
    found = Unify(1, len(block)).project(weight, 1.0)
    assert float(found.abs().max()) == pytest.approx(float(weight.abs().mean()))
    cost = float((weight - found).square().sum())
    for magnitude_tried in np.linspace(0, 4, 33):
        signs = torch.where(weight < 0, -1.0, 1.0)
        assert cost <= float((weight - magnitude_tried * signs).square().sum()) + 1e-9
    flipped = found.clone()
    flipped[0, 0] *= -1
    assert cost <= float((weight - flipped).square().sum()) + 1e-9


@given(BLOCKS)
def test_unifying_costs_the_energy_less_n_times_the_squared_mean_and_never_more_than_pruning(
    block: list[float],
) -> None:
    weight = torch.tensor([block], dtype=torch.float64)
    unify = Unify(1, len(block))
    saved = float(unify.saved(magnitude(weight)).sum())
    assert saved == pytest.approx(len(block) * float(weight.abs().mean()) ** 2, abs=1e-9)
    cost = float((weight - unify.project(weight, 1.0)).square().sum())
    assert cost == pytest.approx(float(weight.square().sum()) - saved, abs=1e-9)
    assert cost <= float(weight.square().sum()) + 1e-12


def test_both_budgets_by_hand() -> None:
    # Energies 25, 17, 8, 2; unified they save 24.5, 12.5, 8, 0.5 (n u^2). Two of four live, one of these is free.
    weight = torch.tensor([[3.0, 4.0, 4.0, 1.0, 2.0, -2.0, 1.0, 1.0]])
    weight[0, 6:] = torch.tensor([1.0, 0.0])
    projected = Unify(1, 2, unified=0.75).project(weight, 0.5)
    # Free (3, 4) and tie (4, 1) saves 25 + 12.5; the other way round 24.5 + 17 = 41.5 is best.
    assert projected.tolist() == [[3.5, 3.5, 4, 1, 0, 0, 0, 0]]


def test_a_four_by_four_block_of_fp32_takes_49_bits_instead_of_512_and_one_flag_more() -> None:
    weight = Unify(4, 4).project(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)), 1.0)
    form = UnifiedBlocks.encode(weight.numpy(), (4, 4, 1))
    blocks = 64
    # b + n bits: 32 of the magnitude, 16 of signs; ours has two flags, alive and unified.
    assert form.nbytes * 8 == blocks * (32 + 16 + 2)
    assert weight.numel() * 32 / (blocks * 49) == pytest.approx(10.4, abs=0.05)


@pytest.mark.parametrize(("pruned", "unified"), [(0.5, 0.25), (0.25, 0.75), (0.5, 0.5), (0.0, 0.5)])
def test_bits_a_weight_follow_the_shares_of_pruned_unified_and_free_blocks(pruned: float, unified: float) -> None:
    n, b, blocks = 8, 32, 128
    unify = Unify(8, 1, unified=pruned + unified)
    weight = unify.project(torch.randn(64, 16, generator=torch.Generator().manual_seed(1)), 1 - pruned)
    form = UnifiedBlocks.encode(weight.numpy(), (8, 1, 1))
    # The average of the specification with one flag; ours keeps a second one for each block alive.
    average = (pruned * 1 + unified * (b + n + 1) + (1 - pruned - unified) * (n * b + 1)) / n
    assert form.nbytes * 8 / weight.numel() == pytest.approx(average + (1 - pruned) / n, abs=8 * 4 / (blocks * n))


def test_the_gradient_of_the_shared_scalar_is_the_sum_of_signed_gradients_of_its_weights() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = ADMM(model, optimizer, Plan({"weight": ("unify3x1", 0.5)}), steps=2, rho=[1e-9])
    x = torch.randn(5, 4)
    for _ in range(2):
        before = model.weight.detach().clone()
        optimizer.zero_grad()
        model(x).square().sum().backward()
        raw = model.weight.grad.detach().clone()
        optimizer.step()
    signs, scalars = before.sign(), before.abs().amax(0).requires_grad_()
    ((x @ (signs * scalars).T).square().sum()).backward()
    assert scalars.grad is not None
    assert torch.allclose((signs * raw).sum(0), scalars.grad, atol=1e-5)
    # Plain descent moves each weight as the scalar goes, by the mean: the scalar's own gradient over the block's size.
    expected = signs * (scalars.detach() - 0.1 * scalars.grad / 3)
    assert torch.allclose(model.weight.detach(), expected, atol=1e-6)
    pruner.finish()


@given(st.integers(0, 2**20))
def test_signs_never_part_while_a_block_is_tied(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(6, 4, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(4, 6, generator=generator))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    pruner = ADMM(model, optimizer, Plan({"weight": ("unify2x2", 0.5)}), steps=2, rho=[1e-9])
    products = None
    for _ in range(8):
        model.weight.grad = torch.randn(4, 6, generator=generator)
        optimizer.step()
        # A scalar may cross zero; then all signs of its block turn at once, and their products stay.
        blocks = model.weight.detach().unflatten(0, (2, 2)).unflatten(2, (3, 2)).transpose(1, 2).flatten(2)
        now = (blocks * blocks[..., :1]).sign()
        products = now if products is None else products
        assert torch.equal(now, products)
        assert Unify(2, 2).holds(model.weight, 0.5)
    pruner.remove()
