"""Random weights: reproducible, nowhere trivial, activations of a sane scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from monstera.zoo import calibrate_, network, randomize_

NAMES = ["digits_cnn", "resnet20", "resnet18", "mobilenet_v2", "r2plus1d_18"]


def _example(name: str, seed: int = 0) -> Tensor:
    shape = {"digits_cnn": (4, 1, 8, 8), "r2plus1d_18": (2, 3, 8, 32, 32)}.get(name, (4, 3, 48, 48))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def _outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear | nn.BatchNorm2d | nn.BatchNorm3d):
            module.register_forward_hook(lambda _m, _x, y, name=name: seen.__setitem__(name, y))
    model(x)
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_activations_neither_explode_nor_vanish_on_another_input(name: str) -> None:
    model = randomize_(network(name).eval(), _example(name))
    for layer, y in _outputs(model, _example(name, seed=1)).items():
        assert 0.05 < float(y.std()) < 20, layer


@pytest.mark.parametrize("name", NAMES)
def test_the_output_depends_on_the_input(name: str) -> None:
    model = randomize_(network(name).eval(), _example(name))
    with torch.no_grad():
        first, second = model(_example(name, seed=1))[:2]
    assert (first - second).norm() > 0.02 * first.norm()


def test_no_constant_of_a_batch_norm_is_trivial() -> None:
    model = randomize_(network("resnet20"), _example("resnet20"))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                assert values.std() > 1e-3
            assert (module.running_var > 0).all()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, second, third = (
        randomize_(network("digits_cnn"), _example("digits_cnn"), seed=s).state_dict() for s in (1, 1, 2)
    )
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["conv1.weight"], third["conv1.weight"])


def test_the_global_generator_and_the_mode_are_left_alone() -> None:
    model = network("digits_cnn").train()
    model.bn2.eval()
    before = torch.get_rng_state()
    randomize_(model, _example("digits_cnn"))
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert not model.bn2.training
    assert not model.conv1._forward_hooks


def test_calibration_keeps_zeros_and_brings_faded_activations_back() -> None:
    model = randomize_(network("vgg16_bn", classes=10).features.eval(), _example("vgg16_bn"))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight *= torch.rand_like(module.weight) < 0.1
    zeros = {k: v == 0 for k, v in model.state_dict().items() if v.dim() == 4}
    calibrate_(model, _example("vgg16_bn"))
    assert all(torch.equal(model.state_dict()[k] == 0, v) for k, v in zeros.items())
    assert all(0.3 < float(y.std()) < 3 for y in _outputs(model, _example("vgg16_bn")).values())


@pytest.mark.parametrize("density", [1.0, 0.1])
def test_a_recurrent_network_keeps_a_sane_scale_and_its_zeros_after_pruning(density: float) -> None:
    x = torch.randn(2, 30, 153, generator=torch.Generator().manual_seed(0))
    model = randomize_(network("gru_speech_small").eval(), x)
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.dim() == 2):
            weight *= torch.rand_like(weight) < density
    zeros = {k: v == 0 for k, v in model.state_dict().items() if v.dim() == 2}
    calibrate_(model, x)
    assert all(torch.equal(model.state_dict()[k] == 0, v) for k, v in zeros.items())
    with torch.no_grad():
        assert 0.2 < float(model(x).std()) < 1


def test_a_layer_whose_output_is_constant_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    nn.init.zeros_(model[0].weight)
    calibrate_(model, torch.randn(2, 3))
    assert torch.equal(model[0].weight, torch.zeros(4, 3))
