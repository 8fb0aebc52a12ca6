"""The sample of ImageNet, and the pruned weights that are judged on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from monstera.zoo import load_deep_compression_state, squeezenet1_0
from monstera.zoo.data import DataMissingError, data_root, imagenet_sample


@pytest.fixture(scope="module")
def root() -> Path:
    try:
        return data_root()
    except DataMissingError as error:
        pytest.skip(str(error))


def test_there_is_one_picture_of_each_class_cut_from_the_middle(root: Path) -> None:
    whole, middle = imagenet_sample(256, root), imagenet_sample(227, root)
    assert torch.equal(middle.labels, torch.arange(1000))
    assert torch.equal(middle.images, whole.images[:, :, 14:241, 14:241])


def test_the_pruned_weights_fit_and_have_the_published_density(root: Path) -> None:
    state = load_deep_compression_state(root / "squeezenet" / "squeezenet1_0_deep_compression.npz")
    squeezenet1_0().load_state_dict(state)
    weights = [value for name, value in state.items() if name.endswith("weight")]
    total = sum(w.numel() for w in weights)
    assert total == 1_244_448
    assert round(sum(int(w.count_nonzero()) for w in weights) / total, 3) == 0.334


def test_other_weights_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", **{"conv1.weight": np.zeros(3)})
    with pytest.raises(ValueError, match=r"other\.npz: expected the parameters of SqueezeNet 1\.0"):
        load_deep_compression_state(tmp_path / "other.npz")


def test_a_missing_sample_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"images\.npz"):
        imagenet_sample(root=tmp_path)


@pytest.mark.parametrize("size", [0, 257])
def test_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 256 pixels, got {size}"):
        imagenet_sample(size)
