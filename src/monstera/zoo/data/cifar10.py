"""CIFAR-10: the official python and binary files, or the lossless WebP sheets of `shared/data`.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).
"""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monstera.zoo.data.encoded import read_encoded
from monstera.zoo.data.pictures import Pictures, PictureSet
from monstera.zoo.data.root import DataMissingError, data_root

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.49139968, 0.48215841, 0.44653091)
STD = (0.24703223, 0.24348513, 0.26158784)
_BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_PIXELS = 3 * 32 * 32


def cifar10(root: str | os.PathLike[str] | None = None) -> PictureSet:
    """Read CIFAR-10: 50,000 training and 10,000 test pictures, RGB 32x32, in the official order.

    Args:
        root: the data folder (see `data_root`), or the folder that holds the files themselves.

    Raises:
        DataMissingError: none of the three formats is there; the message says what was looked for.
        ValueError: a file is damaged.
    """
    folder = data_root(root)
    readers = (
        ("cifar10", "train.npz", _read_sheets),
        ("cifar-10-batches-bin", "data_batch_1.bin", _read_binary),
        ("cifar-10-batches-py", "data_batch_1", _read_python),
    )
    for name, first, read in readers:
        for place in (folder / name, folder):
            if (place / first).is_file():
                return PictureSet("cifar10", read(place, "train"), read(place, "test"), MEAN, STD, CLASSES)
    looked_for = ", ".join(f"{name}/{first}" for name, first, _ in readers)
    raise DataMissingError(f"CIFAR-10 is not in {folder}: looked for {looked_for}, and for the same files at its top")


def _read_sheets(folder: Path, split: str) -> Pictures:
    sheets, labels = read_encoded(folder / f"{split}.npz", "webp")
    images = np.concatenate(sheets).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
    return _pictures(images, labels, split)


def _read_binary(folder: Path, split: str) -> Pictures:
    rows = np.concatenate([np.fromfile(folder / f"{batch}.bin", np.uint8) for batch in _BATCHES[split]])
    if rows.size % (1 + _PIXELS):
        raise ValueError(f"{folder}: the {split} files hold {rows.size} bytes, not a multiple of {1 + _PIXELS}")
    rows = rows.reshape(-1, 1 + _PIXELS)
    return _pictures(rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0], split)


def _read_python(folder: Path, split: str) -> Pictures:
    batches = [
        _ArraysOnly(io.BytesIO((folder / name).read_bytes()), encoding="bytes").load() for name in _BATCHES[split]
    ]
    images = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
    return _pictures(images, np.concatenate([batch[b"labels"] for batch in batches]), split)


def _pictures(images: np.ndarray, labels: np.ndarray, split: str) -> Pictures:
    expected = 10_000 * len(_BATCHES[split])
    if len(images) != expected or len(labels) != expected or labels.max() >= len(CLASSES):
        raise ValueError(f"CIFAR-10 {split}: expected {expected} pictures with labels 0..9, got {len(images)}")
    return Pictures(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64)))


class _ArraysOnly(pickle.Unpickler):
    """The official python files are pickles; nothing in them may name more than a NumPy array."""

    _ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "_frombuffer"})

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in self._ALLOWED:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise ValueError(
            f"a CIFAR-10 python file may hold arrays only, this one names {module}.{name}: not the official file"
        )
