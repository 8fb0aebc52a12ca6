"""Augmentation of a whole batch does what it would do picture by picture."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from monstera.recipe.augment import augment
from monstera.recipe.schema import Augmentation


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    n=st.integers(1, 5),
    channels=st.integers(1, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    pad=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_every_picture_is_a_crop_of_its_padded_self_mirrored_or_not(
    n: int, channels: int, height: int, width: int, pad: int, flip: bool, seed: int
) -> None:
    images = torch.randint(1, 256, (n, channels, height, width), dtype=torch.uint8, generator=_generator(seed))
    result = augment(images, Augmentation(crop_padding=pad, flip=flip), _generator(seed))
    assert result.shape == images.shape
    for picture, padded in zip(result, F.pad(images, (pad, pad, pad, pad)), strict=True):
        windows = padded.unfold(1, height, 1).unfold(2, width, 1)
        crops = [windows[:, y, x] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        crops += [crop.flip(-1) for crop in crops] if flip else []
        assert any(torch.equal(picture, crop) for crop in crops)


def test_pictures_of_a_batch_are_moved_differently_and_about_half_are_mirrored() -> None:
    ramp = torch.arange(8, dtype=torch.uint8).expand(400, 1, 8, 8)
    mirrored = augment(ramp, Augmentation(flip=True), _generator())[:, 0, 0, 0] == 7
    assert 150 < int(mirrored.sum()) < 250
    crops = augment(ramp, Augmentation(crop_padding=2), _generator())
    assert len(crops.flatten(1).unique(dim=0)) == 25


def test_the_generator_decides_everything_and_the_pictures_are_not_changed() -> None:
    images = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8)
    before = images.clone()
    how = Augmentation(crop_padding=2, flip=True)
    assert torch.equal(augment(images, how, _generator(1)), augment(images, how, _generator(1)))
    assert not torch.equal(augment(images, how, _generator(1)), augment(images, how, _generator(2)))
    assert torch.equal(images, before)


def test_without_augmentation_the_batch_is_returned_as_it_is() -> None:
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert augment(images, Augmentation(), _generator()) is images
