"""Engines hold nothing of what pruning emptied: dead filters, columns that read them, whole residual branches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import monstera as ms
from monstera.runtime import Engine
from monstera.zoo import network, randomize_

X = torch.randn(1, 3, 16, 16)


def resnet20() -> nn.Module:
    return randomize_(network("resnet20"), X).eval()


def stored(engine: Engine) -> dict[str, int]:
    return {layer.layer: layer.stored for layer in engine.plan().layers}


def assert_same(engine: Engine, model: nn.Module) -> None:
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(engine(X)), model(X), rtol=1e-4, atol=1e-5)


def test_dead_filters_cost_an_engine_what_they_cost_the_shrunk_module() -> None:
    model = resnet20()
    whole = ms.compile(model, X, tune="none")
    for block in (model.layer1[0], model.layer2[1], model.layer3[2]):
        half = len(block.conv1.weight) // 2
        block.conv1.weight.data[:half] = 0
        block.bn1.bias.data[:half] = block.bn1.running_mean.data[:half] = 0
    dead, shrunk = ms.compile(model, X, tune="none"), ms.compile(ms.shrink(model, X)[0], X, tune="none")
    assert_same(dead, model)
    assert stored(dead) == stored(shrunk)
    fewer = {name: count for name, count in stored(dead).items() if count != stored(whole)[name]}
    assert fewer.keys() == {f"layer{i}.{j}.conv{k}" for i, j in ((1, 0), (2, 1), (3, 2)) for k in (1, 2)}
    assert all(2 * count == stored(whole)[name] for name, count in fewer.items())
    assert dead.memory.weight_bytes < whole.memory.weight_bytes


@pytest.mark.parametrize("emptied", ["conv1", "conv2", "bn2"])
def test_a_residual_branch_of_zeros_vanishes_from_the_program(emptied: str) -> None:
    model = resnet20()
    for block in (model.layer1[1], model.layer3[2]):
        block.get_submodule(emptied).weight.data.zero_()
        block.bn1.bias.data.copy_(-block.bn1.bias.data.abs())
        block.bn1.running_mean.data.zero_()
        block.bn2.bias.data.zero_()
        block.bn2.running_mean.data.zero_()
    engine = ms.compile(model, X, tune="none")
    assert_same(engine, model)
    assert len(stored(engine)) == 20 - 4
    assert not [name for name in stored(engine) if name.startswith(("layer1.1", "layer3.2"))]


def test_a_branch_that_adds_the_same_numbers_to_every_pixel_needs_no_layer_either() -> None:
    model = resnet20()
    model.layer2[1].conv2.weight.data.zero_()
    engine = ms.compile(model, X, tune="none")
    assert_same(engine, model)
    assert not [name for name in stored(engine) if name.startswith("layer2.1")]
