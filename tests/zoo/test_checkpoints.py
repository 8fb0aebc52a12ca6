"""The published CIFAR checkpoints load, and score what their authors say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monstera.zoo import load_cifar_resnet_state, network
from monstera.zoo.data import DataMissingError, Pictures, cifar10, data_root

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILES = {"resnet20": "resnet20-12fca82f.th", "resnet32": "resnet32-d509ac18.th", "resnet56": "resnet56-4bfd9763.th"}


@pytest.fixture(scope="module")
def test_pictures() -> Pictures:
    try:
        root = data_root()
    except DataMissingError as error:
        pytest.skip(str(error))
    # Where there is a data folder, a missing file is a failure and no reason to skip.
    return cifar10(root).test


def _correct(name: str, pictures: Pictures) -> int:
    model = network(name).eval()
    model.load_state_dict(load_cifar_resnet_state(data_root() / "cifar_resnets" / FILES[name]))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    correct = 0
    with torch.no_grad():
        for images, labels in zip(pictures.images.split(500), pictures.labels.split(500), strict=True):
            correct += int((model((images.float() / 255 - mean) / std).argmax(1) == labels).sum())
    return correct


@pytest.mark.parametrize(("name", "correct"), [("resnet20", 917), ("resnet32", 928), ("resnet56", 926)])
def test_a_checkpoint_is_right_on_the_first_thousand_pictures(name: str, correct: int, test_pictures: Pictures) -> None:
    assert abs(_correct(name, test_pictures.take(torch.arange(1000))) - correct) <= 2


@pytest.mark.full
@pytest.mark.parametrize(("name", "correct"), [("resnet20", 9173), ("resnet32", 9263), ("resnet56", 9339)])
def test_a_checkpoint_scores_the_published_accuracy(name: str, correct: int, test_pictures: Pictures) -> None:
    assert abs(_correct(name, test_pictures) - correct) <= 2


def test_a_file_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "other.th")
    with pytest.raises(ValueError, match=r"'state_dict'.*\['epoch'\]"):
        load_cifar_resnet_state(tmp_path / "other.th")
