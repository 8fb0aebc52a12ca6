"""Inherited weights: least squares where that solves it, errors that fall, and a file that saves the work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monstera.search.npas import Stage
from monstera.search.npas.base import base_network
from monstera.search.npas.candidate import build, replacement
from monstera.search.npas.inheritance import fitted, inherit, observed
from monstera.search.npas.scheme import LayerChoice, Scheme
from monstera.zoo import fused_mobilenet, randomize_


def reconstruction_error(layer: nn.Module, x: Tensor, y: Tensor) -> float:
    """The squared error of a layer's outputs for `x`, relative to the squares of `y`."""
    with torch.no_grad():
        return float((layer(x) - y).square().sum() / y.square().sum())


def _layer(stride: int, bias: bool) -> tuple[nn.Conv2d, Stage, Tensor, Tensor]:
    torch.manual_seed(stride)
    layer = nn.Conv2d(5, 7, 3, stride, padding=1, bias=bias)
    # Neighbours alike, as in pictures, so that a 1x1 layer can come close.
    x = F.avg_pool2d(torch.randn(4, 5, 13, 11), 3, 1)
    with torch.no_grad():
        return layer, Stage("layer", 5, 7, "3x3", stride), x, layer(x)


@pytest.mark.parametrize(("stride", "bias"), [(1, False), (2, False), (2, True)])
def test_a_1x1_layer_is_the_least_squares_solution(stride: int, bias: bool) -> None:
    layer, stage, x, y = _layer(stride, bias)
    made = fitted(stage, "1x1", layer, x, y)
    assert isinstance(made, nn.Conv2d)
    rows = torch.stack([x[n, :, i, j] for n in range(4) for i in range(0, 11, stride) for j in range(0, 9, stride)])
    wanted = torch.stack([y[n, :, i, j] for n in range(4) for i in range(y.shape[2]) for j in range(y.shape[3])])
    if bias:
        rows = torch.cat([rows, torch.ones(len(rows), 1)], 1)
    solution = torch.linalg.lstsq(rows.double(), wanted.double()).solution.T.float()
    torch.testing.assert_close(made.weight[:, :, 0, 0], solution[:, :5], rtol=1e-4, atol=1e-5)
    assert (made.bias is not None) == bias
    if made.bias is not None:
        torch.testing.assert_close(made.bias, solution[:, 5], rtol=1e-4, atol=1e-5)


def test_channels_that_are_always_zero_do_not_spoil_the_solution() -> None:
    layer, stage, x, _ = _layer(1, False)
    x[:, 2] = 0
    with torch.no_grad():
        y = layer(x)
    made = fitted(stage, "1x1", layer, x, y)
    assert isinstance(made, nn.Conv2d)
    assert made.weight.abs().max() < 10
    assert not made.weight[:, 2].abs().gt(1e-6).any()


@pytest.mark.parametrize("kind", ["1x1", "3x3dw+1x1", "1x1+3x3dw+1x1"])
@pytest.mark.parametrize("stride", [1, 2])
def test_what_a_layer_gives_is_nearer_to_the_original_than_with_fresh_weights(kind: str, stride: int) -> None:
    layer, stage, x, y = _layer(stride, False)
    torch.manual_seed(0)
    fresh = reconstruction_error(replacement(stage, kind, False).eval(), x, y)
    made = reconstruction_error(fitted(stage, kind, layer, x, y), x, y)
    print(f"{kind}, stride {stride}: {fresh:.3f} -> {made:.3f}")
    # Giving nothing at all has an error of 1.
    assert made < 0.9 < fresh


@pytest.mark.parametrize("kind", ["3x3dw+1x1", "1x1+3x3dw+1x1"])
def test_both_ends_of_a_cascade_learn(kind: str, monkeypatch) -> None:
    layer, stage, x, y = _layer(1, False)
    errors = []
    for steps in (0, 100):
        monkeypatch.setattr("monstera.search.npas.inheritance.STEPS", steps)
        errors.append(reconstruction_error(fitted(stage, kind, layer, x, y), x, y))
    assert errors[1] < 0.99 * errors[0]


def test_a_layer_that_is_a_cascade_already_is_found_again() -> None:
    _, stage, x, _ = _layer(1, False)
    depthwise, project = nn.Conv2d(5, 5, 3, padding=1, groups=5, bias=False), nn.Conv2d(5, 7, 1, bias=False)
    layer = nn.Conv2d(5, 7, 3, padding=1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(project.weight * depthwise.weight[:, 0])
        y = layer(x)
    assert reconstruction_error(fitted(stage, "3x3dw+1x1", layer, x, y), x, y) < 1e-6


def _base(seed: int = 0):
    torch.manual_seed(seed)
    model = fused_mobilenet(width=8, blocks=(1, 1)).eval()
    randomize_(model, torch.randn(2, 1, 28, 28), seed=seed)
    x = torch.randn(4, 1, 28, 28)
    return base_network(model, x), x


def test_inherited_weights_are_read_from_their_file_and_are_those_made_afresh(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("monstera.search.npas.inheritance.STEPS", 5)
    base, x = _base()
    path = tmp_path / "inherited.safetensors"
    fresh, made = inherit(base, x), inherit(base, x, path)
    with monkeypatch.context() as patch:
        patch.setattr("monstera.search.npas.inheritance.fitted", None)  # nothing is computed
        kept = inherit(base, x, path)
    assert fresh.keys() == kept.keys() == made.keys()
    for key, state in fresh.items():
        assert state.keys() == kept[key].keys()
        assert all(torch.equal(state[part], kept[key][part]) for part in state)
    assert ("features.1.conv.0", "1x1") in fresh
    assert ("features.1.conv.0", "3x3") not in fresh


def test_a_file_of_another_base_is_made_again_and_a_damaged_one_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("monstera.search.npas.inheritance.STEPS", 5)
    path = tmp_path / "inherited.safetensors"
    (base, x), (other, _) = _base(), _base(1)
    first = inherit(base, x, path)
    second = inherit(other, x, path)
    key = ("features.1.conv.0", "1x1")
    assert not torch.equal(first[key]["weight"], second[key]["weight"])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        inherit(other, x, path)


def test_a_candidate_begins_with_what_it_inherits(monkeypatch) -> None:
    monkeypatch.setattr("monstera.search.npas.inheritance.STEPS", 20)
    base, x = _base()
    kept = inherit(base, x)
    choices = [*base.space.base.choices]
    choices[0] = LayerChoice("3x3dw+1x1")
    model, _ = build(base, Scheme(tuple(choices)), kept)
    weight = model.get_parameter("features.1.conv.0.project.weight")
    assert torch.equal(weight, kept["features.1.conv.0", "3x3dw+1x1"]["project.weight"])
    seen = observed(base.model, x, ["features.1.conv.0"])["features.1.conv.0"]
    assert reconstruction_error(model.get_submodule("features.1.conv.0"), *seen) < 1
