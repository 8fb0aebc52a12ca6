"""Hold: zeros stay zero through any training, from the weights, from masks or from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from monstera.pruning import hold, prune
from monstera.sparsity import MaskFileError, Plan


def _sparse() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    prune(model, Plan({"0.weight": ("4x1", 0.25)}))
    nn.init.zeros_(model[2].bias)
    return model


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 8)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_zeros_of_weights_stay_while_the_rest_and_the_biases_learn(kind: type[torch.optim.Optimizer]) -> None:
    model = _sparse()
    before = model[0].weight.detach().clone()
    optimizer = kind(model.parameters(), lr=0.01)
    handle = hold(model, optimizer)
    assert list(handle.masks) == ["0.weight"]
    _train(model, optimizer)
    after = model[0].weight.detach()
    assert not after[before == 0].any()
    assert not model[0].weight.grad[before == 0].any()
    assert (after[before != 0] != before[before != 0]).all()
    assert model[2].bias.detach().any()


def test_momentum_gathered_before_the_hold_does_not_move_dead_weights() -> None:
    model = _sparse()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    zeros = model[0].weight.detach() == 0
    _train(model, optimizer)
    prune(model, Plan({"0.weight": ("4x1", 0.25)}))
    zeros = model[0].weight.detach() == 0
    hold(model, optimizer)
    assert not optimizer.state[model[0].weight]["momentum_buffer"][zeros].any()
    _train(model, optimizer)
    assert not model[0].weight.detach()[zeros].any()


def test_an_optimizer_with_a_closure_keeps_the_holes_too() -> None:
    model = _sparse()
    zeros = model[0].weight.detach() == 0
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    hold(model, optimizer)
    x = torch.randn(16, 8)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert not model[0].weight.detach()[zeros].any()


def test_after_remove_or_its_with_block_the_zeros_may_fill() -> None:
    model = _sparse()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with hold(model, optimizer):
        _train(model, optimizer)
        assert not model[0].weight.detach().all()
    _train(model, optimizer)
    assert model[0].weight.detach().all()


def test_masks_travel_by_file_to_a_dense_copy(tmp_path: Path) -> None:
    model = _sparse()
    hold(model, torch.optim.SGD(model.parameters(), lr=0.01)).save(tmp_path / "masks.safetensors")
    other = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(other.parameters(), lr=0.01)
    hold(other, optimizer, tmp_path / "masks.safetensors")
    assert torch.equal(other[0].weight.detach() != 0, model[0].weight.detach() != 0)
    _train(other, optimizer)
    assert torch.equal(other[0].weight.detach() != 0, model[0].weight.detach() != 0)


def test_a_dense_model_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    with pytest.raises(ValueError, match="no weight of the model has a zero to keep"):
        hold(model, torch.optim.SGD(model.parameters(), lr=0.01))


def test_masks_that_do_not_fit_are_refused_all_at_once_and_nothing_is_zeroed() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    before = model[0].weight.detach().clone()
    masks = {
        "1.weight": torch.ones(2, dtype=torch.bool),
        "0.weight": torch.zeros(8, 4, dtype=torch.bool),
        "0.bias": torch.zeros(8),
    }
    with pytest.raises(
        ValueError, match=r"(?s)1\.weight: the model has no.*0\.weight: expected bool \[8, 8\].*0\.bias"
    ) as found:
        hold(model, torch.optim.SGD(model.parameters(), lr=0.01), masks)
    assert "torch.float32 [8]" in str(found.value)
    assert torch.equal(before, model[0].weight.detach())


def test_a_damaged_mask_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "masks").write_bytes(b"no masks")
    model = _sparse()
    with pytest.raises(MaskFileError):
        hold(model, torch.optim.SGD(model.parameters(), lr=0.01), tmp_path / "masks")
