"""Fashion-MNIST in its own four files, as Debian installs them.

Source: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms"
(2017), arXiv 1708.07747.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from monstera.zoo.data.pictures import Pictures, PictureSet
from monstera.zoo.data.root import VARIABLE, DataMissingError, data_root

CLASSES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
MEAN, STD = (0.28604,), (0.35302,)
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
_FILES = {"train": 60_000, "t10k": 10_000}


def fashion_mnist(root: str | os.PathLike[str] | None = None) -> PictureSet:
    """Read Fashion-MNIST: 60,000 training and 10,000 test pictures, grey 28x28, in the official order.

    Looked for in the data folder where one is named by `root` or by the variable MONSTERA_DATA, at its top and in
    `fashion-mnist`, then where the Debian package puts it.

    Raises:
        DataMissingError: it is in none of these; the message names the package.
        ValueError: a file is damaged.
    """
    places = [DEBIAN]
    if root or os.environ.get(VARIABLE):
        folder = data_root(root)
        places = [folder / "fashion-mnist", folder, DEBIAN]
    for place in places:
        if _images(place, "train").is_file():
            return PictureSet("fashion_mnist", _read(place, "train"), _read(place, "t10k"), MEAN, STD, CLASSES)
    raise DataMissingError(
        f"Fashion-MNIST is not there: looked for {_images(DEBIAN, 'train').name} in {', '.join(map(str, places))}; "
        f"install it with: apt-get install {PACKAGE}"
    )


def _images(folder: Path, split: str) -> Path:
    return folder / f"{split}-images-idx3-ubyte.gz"


def _read(folder: Path, split: str) -> Pictures:
    count = _FILES[split]
    images = _idx(_images(folder, split), (count, 28, 28))
    path = folder / f"{split}-labels-idx1-ubyte.gz"
    labels = _idx(path, (count,))
    if labels.max() >= len(CLASSES):
        raise ValueError(f"{path}: expected labels 0..9, got {labels.max()}")
    return Pictures(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


def _idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read an IDX file of bytes: two zeros, type 8, the number of dimensions, each as big-endian int32, the values."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error})") from None
    head = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
    if not content.startswith(head) or len(content) != len(head) + int(np.prod(shape)):
        raise ValueError(f"{path}: expected an IDX file of bytes {list(shape)}, got another head or length")
    # A copy, as tensors are to be writable.
    return np.frombuffer(content, np.uint8, offset=len(head)).reshape(shape).copy()
