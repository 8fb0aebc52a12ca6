"""Group lasso by hand: the subgradient of SSL, its threshold, and the closed form of the proximal step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monstera.pruning import GroupLasso
from monstera.sparsity import Plan

# Three filters of norms 5, 1 and 0.
FILTERS = [[3.0, 4.0], [0.6, 0.8], [0.0, 0.0]]


def _after(weights: list[list[float]], gradient: float = 0.0, **options: object) -> list[list[float]]:
    """The weights after one step at a learning rate of 1."""
    model = nn.Sequential(nn.Linear(2, len(weights), bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(weights))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    GroupLasso(model, optimizer, Plan({"0.weight": ("filter", 0.5)}), steps=10, **options)
    model[0].weight.grad = torch.full((len(weights), 2), gradient)
    optimizer.step()
    return model[0].weight.tolist()


def _near(*rows: list[float]) -> list:
    return [pytest.approx(row, abs=1e-6) for row in rows]


def test_the_subgradient_has_the_length_of_the_strength_whatever_the_norm() -> None:
    # 0.5 (3, 4) / 5 = (0.3, 0.4), and 0.5 (0.6, 0.8) / 1 = (0.3, 0.4); of a group of zeros it is 0.
    assert _after(FILTERS, strength=0.5) == _near([2.7, 3.6], [0.3, 0.4], [0, 0])


def test_the_pull_adds_to_the_gradient_of_the_loss() -> None:
    assert _after(FILTERS[:2], gradient=-0.1, strength=0.5) == _near([2.8, 3.7], [0.4, 0.5])


def test_several_families_add_up() -> None:
    # Rows (3, 4) and (0, 0) of norms 5 and 0; columns of norms 3 and 4.
    after = _after([[3.0, 4.0], [0.0, 0.0]], strength=0.5, groups=["filter", "column"])
    assert after == _near([3 - 0.3 - 0.5, 4 - 0.4 - 0.5], [0, 0])


def test_single_weights_below_the_threshold_become_zero() -> None:
    assert _after([[9e-5, 1.0], [-9e-5, 1.1e-4]], strength=0.0) == _near([0, 1.0], [0, 1.1e-4])


def test_the_proximal_step_scales_groups_and_makes_exact_zeros() -> None:
    # 1 - 2 / 5 = 0.6 of the first; the second has a norm of 1, less than 2.
    first, second, third = _after(FILTERS, strength=2.0, proximal=True)
    assert first == pytest.approx([1.8, 2.4])
    assert second == third == [0, 0]


def test_the_sparse_proximal_step_shrinks_weights_first_and_groups_then() -> None:
    # (4, 5) -> (3, 4) by l1; its norm 5 leaves 1 - 1/5. (0.5, 2) -> (0, 1), of norm 1: nothing is left.
    after = _after([[4.0, 5.0], [0.5, 2.0]], strength=1.0, l1=1.0, proximal=True)
    assert after[0] == pytest.approx([2.4, 3.2])
    assert after[1] == [0, 0]


def test_the_proximal_step_is_the_minimum_of_its_objective() -> None:
    """`||v - w||^2 / 2 + 2 ||v||` of w = (3, 4), on a grid around the answer."""
    answer = torch.tensor(_after(FILTERS, strength=2.0, proximal=True)[0])
    w = torch.tensor(FILTERS[0])
    grid = answer + torch.cartesian_prod(*[torch.linspace(-0.5, 0.5, 41)] * 2)
    values = (grid - w).square().sum(1) / 2 + 2 * grid.norm(dim=1)
    torch.testing.assert_close(grid[values.argmin()], answer)


def test_rounds_shrink_in_their_first_parts_alone_and_keep_former_zeros() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = Plan({"0.weight": ("filter", 0.25)})
    GroupLasso(model, optimizer, plan, steps=40, strength=0.01, rounds=2, proximal=True)
    kept = []
    for step in range(40):
        before = model[0].weight.detach().clone()
        model[0].weight.grad = torch.zeros_like(before)
        optimizer.step()
        assert torch.equal(model[0].weight, before) == (step % 20 >= 10)
        kept.append(int(model[0].weight.any(1).sum()))
    assert kept == [16] * 9 + [8] * 20 + [4] * 11
