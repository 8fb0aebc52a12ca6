"""SR-STE: steps against the equation, masks that come back, their divergence, and what decay does to it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monstera.pruning import SRSTE
from monstera.sparsity import Plan, pattern

PLAN = Plan({"0.weight": ("2:4",)})


def _model() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def _backward(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    (model(torch.randn(8, 16, generator=generator)) - torch.randn(8, 4, generator=generator)).square().mean().backward()


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_a_step_is_the_papers_equation_word_for_word(decay: float) -> None:
    model, optimizer = _model()
    dense = model[0].weight.detach().clone()
    SRSTE(model, optimizer, PLAN, steps=10, decay=decay)
    for step in range(5):
        mask = pattern("2:4").mask(dense.square())
        # The forward pass sees the projection; the last bit of a sum depends on its order.
        torch.testing.assert_close(model[0].weight.detach(), dense * mask)
        _backward(model, optimizer, step)
        gradient = model[0].weight.grad.clone()
        assert gradient[~mask].any(), "what is pruned has a gradient, too"
        optimizer.step()
        dense = dense - 0.1 * (gradient + decay * (1 - mask.float()) * dense)
    torch.testing.assert_close(model[0].weight.detach(), pattern("2:4").project(dense))


def test_a_pruned_weight_comes_back_when_its_gradient_says_so() -> None:
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.9, 0.8, 0.1]]))
    pruner = SRSTE(model, torch.optim.SGD(model.parameters(), lr=1.0), PLAN, steps=4)
    pruner.track_divergence()
    assert model[0].weight.tolist() == [[pytest.approx(1.0), pytest.approx(0.9), 0, 0]]
    model[0].weight.grad = torch.tensor([[0.0, 0.0, -0.5, 0.0]])
    pruner._optimizer.step()
    assert model[0].weight.tolist()[0] == pytest.approx([1.0, 0, 1.3, 0], abs=1e-3)
    assert [(entry.since, entry.step, entry.flips) for entry in pruner.divergences] == [(0, 1, 2)]
    assert str(pruner.progress()) == "learn, step 1 of 4, density 0.500, 2 weights changed sides in 1 step"


def test_decay_makes_masks_settle() -> None:
    flips = {}
    for decay in (0.0, 0.05):
        model, optimizer = _model()
        pruner = SRSTE(model, optimizer, PLAN, steps=300, decay=decay)
        pruner.track_divergence()
        for step in range(300):
            _backward(model, optimizer, step)
            optimizer.step()
        flips[decay] = sum(entry.flips for entry in pruner.divergences[150:])
    assert flips[0.0] > 2 * flips[0.05]


def test_after_hardening_masks_are_fixed_and_the_dense_weights_gone() -> None:
    model, optimizer = _model()
    pruner = SRSTE(model, optimizer, PLAN, steps=8, harden_at=0.5)
    for step in range(8):
        _backward(model, optimizer, step)
        optimizer.step()
        if step == 3:
            masks = {name: mask.clone() for name, mask in pruner.masks.items()}
    assert pruner.phase == "tune"
    assert pruner.dense == {}
    assert torch.equal(masks["0.weight"], pruner.masks["0.weight"])
    assert pruner.finish().plan.ok


@pytest.mark.parametrize("wrong", [{"decay": -1.0}, {"decay": float("nan")}, {"harden_at": 0.0}, {"harden_at": 1.5}])
def test_settings_that_make_no_sense_are_refused(wrong: dict) -> None:
    model, optimizer = _model()
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SRSTE(model, optimizer, PLAN, steps=8, **wrong)
