"""Candidates: which layers are found; the network of any scheme has the shapes, holes and answers it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import monstera as ms
from monstera.search.npas import LayerChoice, Scheme, SchemeError
from monstera.search.npas.base import Base, base_network
from monstera.search.npas.candidate import build, pruned_weights
from monstera.zoo import fused_mobilenet, randomize_, resnet20

PATTERNS = ("filter", "patterns4of8", "8x4", "4x1")


class Biased(nn.Module):
    """A stage that has a bias and no batch norm, an activation in place behind it, a shortcut, and a 1x1 layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.middle = nn.Conv2d(6, 6, 3, padding=1)
        self.act = nn.Hardswish(inplace=True)
        self.pointwise = nn.Conv2d(6, 10, 1, stride=2)
        self.grouped = nn.Conv2d(10, 10, 3, padding=1, groups=5)
        self.odd = nn.Conv2d(10, 4, 3, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.act(self.middle(x))
        return self.odd(self.grouped(self.pointwise(x))).flatten(1)


def _base(seed: int = 0) -> tuple[Base, Tensor]:
    torch.manual_seed(seed)
    model = fused_mobilenet(width=8, blocks=(2, 2)).eval()
    randomize_(model, torch.randn(2, 1, 28, 28), seed=seed)
    x = torch.randn(2, 1, 28, 28)
    return base_network(model, x, patterns=PATTERNS), x


def test_every_dense_convolution_but_the_first_is_found_with_its_shortcuts() -> None:
    base, _ = _base()
    names = [stage.name for stage in base.space.stages]
    assert names == ["features.1.conv.0", "features.2.conv.0", "features.3.conv.0", "features.4.conv.0", "features.5.0"]
    assert [stage.shape for stage in base.space.stages] == ["8-8/1", "8-8/1", "8-16/2", "16-16/1", "16-32/1"]
    assert base.space.shortcuts == ((0, 0), (1, 1), (3, 3))
    # A skipped block goes as a whole, with its shortcut.
    assert base.vanishing == {f"features.{n}.conv.0": (f"features.{n}",) for n in (1, 2, 4)}


def test_a_network_without_blocks_of_one_layer_loses_convolution_and_batch_norm() -> None:
    model = resnet20().eval()
    base = base_network(model, torch.randn(1, 3, 16, 16))
    assert len(base.space.stages) == 18
    assert base.space.shortcuts == tuple((2 * n, 2 * n + 1) for n in range(9))
    assert base.vanishing["layer3.1.conv2"] == ("layer3.1.conv2", "layer3.1.bn2")
    assert "layer2.0.conv1" not in base.vanishing


def test_only_plain_convolutions_are_found_and_others_are_refused_by_name() -> None:
    model, x = Biased().eval(), torch.randn(2, 2, 9, 9)
    assert [stage.name for stage in base_network(model, x).space.stages] == ["middle", "pointwise"]
    assert base_network(model, x, ["pointwise"]).space.stages[0].filters == ("1x1",)
    with pytest.raises(ValueError, match=r"no convolution 'grouped' may be replaced"):
        base_network(model, x, ["grouped"])
    with pytest.raises(ValueError, match="training mode"):
        base_network(model.train(), x)


def test_the_scheme_of_the_base_is_the_base() -> None:
    base, x = _base()
    model, plan = build(base, base.space.base)
    assert not plan
    assert torch.equal(model(x), base.model(x))
    assert model is not base.model


def test_a_skipped_block_passes_on_what_it_was_given() -> None:
    base, x = _base()
    choices = list(base.space.base.choices)
    choices[1] = LayerChoice("skip")
    model, _ = build(base, Scheme(tuple(choices)))
    features = base.model.features
    assert isinstance(features, nn.Sequential)
    expected = base.model.get_submodule("classifier")(features[3:](features[:2](x)).mean((2, 3)))
    torch.testing.assert_close(model(x), expected)


def test_what_a_skipped_layer_passes_on_is_not_changed_by_an_activation_in_place() -> None:
    torch.manual_seed(0)
    model, x = Biased().eval(), torch.randn(2, 2, 9, 9)
    candidate, _ = build(base_network(model, x), Scheme((LayerChoice("skip"), LayerChoice("1x1"))))
    y = model.stem(x)
    expected = model.odd(model.grouped(model.pointwise(y + nn.functional.hardswish(y)))).flatten(1)
    torch.testing.assert_close(candidate(x), expected)


def test_cascades_are_pruned_in_their_1x1_parts_only() -> None:
    base, _ = _base()
    stage = base.space.stages[2]
    parts = {kind: pruned_weights(stage, kind) for kind in stage.filters}
    assert parts["1x1+3x3dw+1x1"] == ("features.3.conv.0.expand.weight", "features.3.conv.0.project.weight")
    choices = [*base.space.base.choices]
    choices[2] = LayerChoice("1x1+3x3dw+1x1", "4x1", 0.5)
    model, plan = build(base, Scheme(tuple(choices)))
    assert set(plan) == {*parts["1x1+3x3dw+1x1"]}
    shapes = {name: tuple(plan.weights(model)[name].shape) for name in plan}
    assert [*shapes.values()] == [*stage.pruned_shapes("1x1+3x3dw+1x1")]


def test_a_scheme_may_not_give_a_layer_more_than_it_had() -> None:
    base, _ = _base()
    choices = [*base.space.base.choices]
    choices[4] = LayerChoice("3x3")
    with pytest.raises(SchemeError, match=r"features\.5\.0: 3x3 is not among its filter types, 1x1"):
        build(base, Scheme(tuple(choices)))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_the_network_of_any_scheme_has_the_shapes_of_the_base_and_obeys_its_plan(seed: int) -> None:
    base, x = _base()
    scheme = base.space.sample(np.random.default_rng(seed))
    model, plan = build(base, scheme)
    assert model(x).shape == base.model(x).shape
    if plan:
        assert ms.prune(model, plan).plan.ok
    pruned = [choice for choice in scheme.choices if choice.pattern is not None]
    assert bool(plan) == bool(pruned)


@pytest.mark.parametrize("seed", range(2))
def test_a_compiled_candidate_answers_as_torch_does(seed: int) -> None:
    base, x = _base(seed)
    torch.manual_seed(seed)
    model, plan = build(base, base.space.sample(np.random.default_rng(seed)))
    if plan:
        ms.prune(model, plan)
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(ms.compile(model, x)(x)), model(x), rtol=1e-4, atol=1e-5)
