"""Fashion-MNIST: what is read is what was written, and what is missing or damaged is named."""

from __future__ import annotations

import gzip
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from monstera.zoo.data import DataMissingError, data_set, fashion_mnist

# The function has the name of its module.
MODULE = import_module("monstera.zoo.data.fashion_mnist")
COUNTS = {"train": 60_000, "t10k": 10_000}


@pytest.fixture(autouse=True)
def not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own copy is out of sight."""
    monkeypatch.delenv("MONSTERA_DATA", raising=False)
    monkeypatch.setattr(MODULE, "DEBIAN", tmp_path / "not installed")


def _idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes() + values.tobytes()


def _write(folder: Path) -> None:
    """Black pictures, whose first three pixels number them; the label is the number's last digit."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        numbers = np.arange(count)
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = numbers % 256, numbers // 256
        for name, values in (("images-idx3", images), ("labels-idx1", (numbers % 10).astype(np.uint8))):
            (folder / f"{split}-{name}-ubyte.gz").write_bytes(gzip.compress(_idx(values), 1))


@pytest.mark.parametrize("below", [".", "fashion-mnist"])
def test_pictures_and_labels_are_read_in_their_order(tmp_path: Path, below: str) -> None:
    _write(tmp_path / below)
    data = data_set("fashion_mnist", tmp_path)
    for pictures, count in ((data.train, 60_000), (data.test, 10_000)):
        numbers = pictures.images[:, 0, 0, 0].int() + 256 * pictures.images[:, 0, 0, 1].int()
        assert pictures.images.shape == (count, 1, 28, 28)
        assert torch.equal(numbers, torch.arange(count, dtype=torch.int32))
        assert torch.equal(pictures.labels, torch.arange(count) % 10)


def test_a_named_folder_without_it_leaves_the_packages_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "installed")
    monkeypatch.setattr(MODULE, "DEBIAN", tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("MONSTERA_DATA", str(tmp_path / "empty"))
    assert len(fashion_mnist().train) == 60_000


def test_missing_files_are_refused_with_the_package_that_has_them(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataMissingError, match=r"empty.*apt-get install dataset-fashion-mnist"):
        fashion_mnist(tmp_path / "empty")
    with pytest.raises(DataMissingError, match=r"not installed.*apt-get install dataset-fashion-mnist"):
        fashion_mnist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plain", "not a whole gzip file"),
        (gzip.compress(_idx(np.zeros((3, 28, 28), np.uint8))), r"expected an IDX file of bytes \[60000, 28, 28\]"),
        (gzip.compress(b"\0" * 99)[:-9], "not a whole gzip file"),
    ],
    # Compressed bytes hold the time, by which processes would know the tests by other names.
    ids=["plain", "small", "cut"],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte\.gz: {message}"):
        fashion_mnist(tmp_path)


def test_the_debian_package_holds_the_published_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "DEBIAN", Path("/usr/share/datasets/fashion-mnist"))
    try:
        data = fashion_mnist()
    except DataMissingError as error:
        pytest.skip(str(error))
    assert data.train.labels.bincount().tolist() == [6000] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    assert data.train.labels[:5].tolist() == [9, 0, 0, 3, 0]
    pixels = data.train.images.float() / 255
    assert (float(pixels.mean()), float(pixels.std())) == pytest.approx((data.mean[0], data.std[0]), abs=1e-5)
