"""Gradual pruning against equation 1 of Zhu and Gupta, `s = s_f + (s_i - s_f) (1 - t / n)^3`, by hand."""

from __future__ import annotations

import torch
from torch import nn

from monstera.pruning import Gradual
from monstera.sparsity import Cubic, Plan


def test_the_cubic_by_hand() -> None:
    # From sparsity 0 to 3/4 in four steps: 3/4 (1 - (1 - t/4)^3) = 3/4 of 0, 37/64, 56/64, 63/64, 1.
    cubic = Cubic(0.0, 0.75, 0, 4)
    assert [cubic(t) for t in range(6)] == [0, 0.75 * 37 / 64, 0.75 * 7 / 8, 0.75 * 63 / 64, 0.75, 0.75]


def test_sixteen_weights_at_every_step() -> None:
    """Densities 145/256, 88/256, 67/256 and 1/4 of 16, rounded up: 10, 6, 5, 4. The largest stay."""
    model = nn.Sequential(nn.Linear(16, 1, bias=False))
    values = torch.arange(1.0, 17.0) * torch.tensor([1.0, -1.0]).repeat(8)
    with torch.no_grad():
        model[0].weight.copy_(values[None])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = Plan({"0.weight": ("unstructured", 0.25)})
    Gradual(model, optimizer, plan, steps=6, schedule=Cubic(0.0, 1.0, 0, 4), update_every=1)
    for kept in (10, 6, 5, 4, 4, 4):
        model[0].weight.grad = torch.zeros(1, 16)
        optimizer.step()
        assert torch.equal(model[0].weight.detach()[0], values * (torch.arange(1, 17) > 16 - kept))


def test_a_pruned_weight_stays_zero_though_its_gradient_is_not() -> None:
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
    plan = Plan({"0.weight": ("unstructured", 0.5)})
    Gradual(model, optimizer, plan, steps=4, schedule=Cubic(0.0, 1.0, 0, 2), update_every=1)
    left = []
    for _ in range(4):
        model[0].weight.grad = torch.tensor([[0.0, 0.0, 0.0, -0.5]])
        optimizer.step()
        left.append(model[0].weight.tolist()[0])
    # Densities 9/16 and 1/2 of four, rounded up: 3 and 2. The last grew to 1.5 before it was pruned.
    assert left == [[4, 3, 2, 0], [4, 3, 0, 0], [4, 3, 0, 0], [4, 3, 0, 0]]
