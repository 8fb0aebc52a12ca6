"""Whole networks: dense and pruned, other batches and sizes, against torch within 1e-4 of the largest output."""

from __future__ import annotations

import itertools

import pytest
import torch

import monstera as ms
from monstera.zoo import calibrate_, network, randomize_

TOLERANCE = 1e-4
NETWORKS = ("resnet18", "resnet50", "vgg16", "mobilenet_v2", "resnet20")
PLANS = (
    ("dense", 1.0),
    ("4x1", 0.25),
    ("4x1", 0.1),
    ("8x4", 0.25),
    ("unstructured", 0.1),
    ("filter", 0.5),
    ("2:4", 0.5),
)
INPUTS = ((1, 3, 224, 224), (3, 3, 224, 224), (1, 3, 192, 160))


def _shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """CIFAR networks see small pictures; one size is not square there either."""
    small = {(1, 3, 224, 224): (1, 3, 32, 32), (3, 3, 224, 224): (3, 3, 32, 32), (1, 3, 192, 160): (1, 3, 40, 24)}
    return small[shape] if name == "resnet20" else shape


def _agrees(name: str, pattern: str, density: float, shape: tuple[int, ...]) -> None:
    example = torch.randn(_shape(name, shape), generator=torch.Generator().manual_seed(1))
    # VGG's linear layers fix the size of its pictures; the zoo's network pools adaptively before them.
    model = randomize_(network(name).eval(), example)
    if pattern != "dense":
        assert ms.prune(model, ms.Plan.uniform(model, pattern, density)).plan.ok
        calibrate_(model, example)
    with torch.no_grad():
        theirs = model(example)
    assert theirs.std() > 0.01 * theirs.abs().max(), "a degenerate network would agree by itself"
    ours = ms.compile(model, example)(example)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


QUICK = [
    ("resnet18", "dense", 1.0, INPUTS[0]),
    ("resnet18", "4x1", 0.25, INPUTS[2]),
    ("resnet50", "4x1", 0.1, INPUTS[0]),
    ("mobilenet_v2", "4x1", 0.1, INPUTS[1]),
    ("mobilenet_v2", "dense", 1.0, INPUTS[2]),
    ("vgg16", "4x1", 0.1, INPUTS[0]),
    *[("resnet20", pattern, density, INPUTS[i % 3]) for i, (pattern, density) in enumerate(PLANS)],
]


@pytest.mark.parametrize(("name", "pattern", "density", "shape"), QUICK)
def test_a_network_agrees_with_torch(name, pattern, density, shape):
    _agrees(name, pattern, density, shape)


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "plan", "shape"),
    [c for c in itertools.product(NETWORKS, PLANS, INPUTS) if (c[0], *c[1], c[2]) not in QUICK],
)
def test_every_network_agrees_with_torch_under_every_plan_and_shape(name, plan, shape):
    _agrees(name, *plan, shape)


SPEECH = (("dense", 1.0), ("16x1", 0.1), ("4x1", 0.25), ("unstructured", 0.1))


@pytest.mark.parametrize("plan", SPEECH)
@pytest.mark.parametrize("shape", [(1, 20, 153), (3, 31, 153), (1, 1, 153)])
def test_a_small_network_for_speech_agrees_with_torch(plan, shape):
    _agrees("gru_speech_small", *plan, shape)


@pytest.mark.parametrize("plan", [("dense", 1.0), ("4x1", 0.1), ("8x1", 0.25), ("unstructured", 0.1)])
@pytest.mark.parametrize("shape", [(1, 9, 48), (2, 33, 48)])
def test_a_small_encoder_agrees_with_torch(plan, shape):
    _agrees("bert_tiny", *plan, shape)


@pytest.mark.full
@pytest.mark.parametrize("plan", [("dense", 1.0), ("4x1", 0.1)])
def test_the_encoder_of_bert_agrees_with_torch(plan):
    _agrees("bert_base", *plan, (1, 128, 768))


@pytest.mark.full
@pytest.mark.parametrize("plan", SPEECH)
def test_the_network_for_speech_agrees_with_torch(plan):
    _agrees("gru_speech", *plan, (1, 100, 153))
