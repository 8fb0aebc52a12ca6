"""SR-STE against the update of its paper, `W - lr (g(S(W)) + lambda (1 - mask) W)`, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monstera.pruning import SRSTE
from monstera.sparsity import Plan

DENSE = [4.0, -3.0, 2.0, 1.0]


def _attached(decay: float) -> tuple[nn.Module, torch.optim.Optimizer, SRSTE]:
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([DENSE]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, SRSTE(model, optimizer, Plan({"0.weight": ("2:4",)}), steps=9, decay=decay)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: list[float]) -> None:
    optimizer.zero_grad()
    # The gradient of every weight is its input, pruned or not: straight through.
    model(torch.tensor([inputs], dtype=torch.float32)).sum().backward()
    optimizer.step()


def test_two_steps_with_decay_by_hand() -> None:
    model, optimizer, pruner = _attached(decay=0.5)
    _step(model, optimizer, [1, 1, 1, 1])
    # Kept: 4 - 0.1, -3 - 0.1. Pruned: 2 - 0.1 (1 + 0.5 * 2), 1 - 0.1 (1 + 0.5 * 1).
    assert pruner.dense["0.weight"][0].tolist() == pytest.approx([3.9, -3.1, 1.8, 0.85])
    assert model[0].weight[0].tolist() == pytest.approx([3.9, -3.1, 0, 0])
    _step(model, optimizer, [1, 1, 1, 1])
    # 1.8 - 0.1 (1 + 0.5 * 1.8), 0.85 - 0.1 (1 + 0.5 * 0.85).
    assert pruner.dense["0.weight"][0].tolist() == pytest.approx([3.8, -3.2, 1.61, 0.7075])


def test_without_decay_it_is_the_straight_through_estimator() -> None:
    model, optimizer, pruner = _attached(decay=0.0)
    _step(model, optimizer, [1, 1, 1, 1])
    assert pruner.dense["0.weight"][0].tolist() == pytest.approx([3.9, -3.1, 1.9, 0.9])


def test_the_output_is_that_of_the_projection_and_not_of_the_dense_weights() -> None:
    model, _, _ = _attached(decay=0.5)
    assert model(torch.ones(1, 4)).item() == 4 - 3


def test_divergence_counts_the_weights_that_entered_and_left() -> None:
    model, optimizer, pruner = _attached(decay=0.0)
    _step(model, optimizer, [0, 0, 0, 0])
    # 2 - 0.1 * -15 = 3.5 passes |-3|: one in, one out.
    _step(model, optimizer, [0, 0, -15, 0])
    assert [entry.flips for entry in pruner.history] == [0, 2]
    assert model[0].weight[0].tolist() == pytest.approx([4, 0, 3.5, 0])
