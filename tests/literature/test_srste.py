"""STE, SR-STE and SAD by hand. Source: A. Zhou et al., ICLR 2021, arXiv 2102.04010, and its code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from monstera.pruning import SRSTE, sad
from monstera.sparsity import Plan

LR = 0.5
# Under 2:4 the first two of the four live.
DENSE = [2.0, -1.0, 0.5, -0.25]


def _attached(dense: list[float], decay: float, **settings: float) -> tuple[nn.Linear, torch.optim.Optimizer, SRSTE]:
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([dense]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=LR, **settings)
    return layer, optimizer, SRSTE(layer, optimizer, Plan({"weight": ("2:4",)}), steps=10, decay=decay)


def _loss(layer: nn.Linear) -> Tensor:
    # Its gradient in w is w x - 1 for every entry of x = (1, 1, 1, 1): here 2 - 1 - 1 = 0 for the projection.
    return (layer(torch.ones(1, 4)) - 1).square().sum() / 2


def test_the_forward_pass_sees_the_projection_and_the_gradient_is_taken_there() -> None:
    layer, _, _ = _attached(DENSE, decay=0.0)
    assert layer.weight.tolist() == [[2.0, -1.0, 0.0, 0.0]]
    loss = _loss(layer)
    loss.backward()
    assert loss.item() == 0, "of the dense weights it would be (1.25 - 1)^2 / 2"
    assert layer.weight.grad.tolist() == [[0.0] * 4]


@pytest.mark.parametrize(
    ("decay", "after"),
    [
        # With no gradient of the loss, only what is pruned moves: w -= lr * decay * w.
        (0.0, [2.0, -1.0, 0.5, -0.25]),
        (0.2, [2.0, -1.0, 0.45, -0.225]),
        (1.0, [2.0, -1.0, 0.25, -0.125]),
    ],
)
def test_the_refinement_draws_pruned_weights_alone_towards_zero(decay: float, after: list[float]) -> None:
    layer, optimizer, pruner = _attached(DENSE, decay)
    _loss(layer).backward()
    optimizer.step()
    torch.testing.assert_close(pruner.dense["weight"], torch.tensor([after]))
    assert layer.weight.tolist() == [[2.0, -1.0, 0.0, 0.0]]


def test_two_steps_by_hand_in_which_a_weight_comes_back() -> None:
    layer, optimizer, pruner = _attached([1.0, 1.0, 0.9, 0.0], decay=0.1)
    pruner.track_divergence()
    _loss(layer).backward()  # 1 + 1 - 1: the gradient is 1 for each
    optimizer.step()
    # Kept: 1 - 0.5 * 1 = 0.5 twice. Pruned: 0.9 - 0.5 * (1 + 0.1 * 0.9) = 0.355, and 0 - 0.5 * 1 = -0.5.
    torch.testing.assert_close(pruner.dense["weight"], torch.tensor([[0.5, 0.5, 0.355, -0.5]]))
    # Three are as large: the first two stay.
    assert pruner.masks["weight"].tolist() == [[True, True, False, False]]
    optimizer.zero_grad()
    _loss(layer).backward()  # 0.5 + 0.5 - 1: nothing
    layer.weight.grad[0, 3] = 0.4
    optimizer.step()
    # The last: -0.5 - 0.5 * (0.4 + 0.1 * -0.5) = -0.675, now the largest; of the two halves the second goes.
    torch.testing.assert_close(pruner.dense["weight"], torch.tensor([[0.5, 0.5, 0.33725, -0.675]]))
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[0.5, 0.0, 0.0, -0.675]]))
    assert [entry.flips for entry in pruner.divergences] == [0, 2]


def test_ordinary_weight_decay_acts_on_all_dense_weights() -> None:
    layer, optimizer, pruner = _attached(DENSE, decay=0.2, weight_decay=0.1)
    _loss(layer).backward()
    optimizer.step()
    # w -= 0.5 * 0.1 * w for all, and 0.5 * 0.2 * w more for what is pruned.
    after = torch.tensor([[1.9, -0.95, 0.5 * 0.85, -0.25 * 0.85]])
    torch.testing.assert_close(pruner.dense["weight"], after)


def test_the_divergence_of_two_masks_counts_what_is_in_one_of_them_alone() -> None:
    first = {"a": torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).bool(), "b": torch.tensor([[1, 1, 0, 0]]).bool()}
    later = {"a": torch.tensor([[1, 0, 1, 0], [1, 0, 1, 0]]).bool(), "b": torch.tensor([[0, 0, 1, 1]]).bool()}
    assert sad(first, later) == {"a": 2, "b": 4}
    assert sad(later, first) == {"a": 2, "b": 4}
    assert sad(first, first) == {"a": 0, "b": 0}


@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_steps_that_undo_each_other_diverge_one_by_one_and_not_together(decay: float) -> None:
    """SAD of steps far apart is not the sum over the steps between."""
    layer, optimizer, pruner = _attached([1.0, 0.9, 0.8, 0.0], decay)
    start = {name: mask.clone() for name, mask in pruner.masks.items()}
    pruner.track_divergence()
    for push in (-0.4, 0.4):
        layer.weight.grad = torch.tensor([[0.0, 0.0, push, 0.0]])
        optimizer.step()
    assert [entry.flips for entry in pruner.divergences] == [2, 2]
    assert sad(start, pruner.masks) == {"weight": 0}
