"""A thousand ImageNet pictures, one of each class, as they lie in `shared/data`: enough to see whether a network works.

Most are from the training split, so that networks score higher than on the validation split. Source: ILSVRC 2012.
"""

from __future__ import annotations

import os

import numpy as np
import torch

from monstera.zoo.data.encoded import read_encoded
from monstera.zoo.data.pictures import Pictures
from monstera.zoo.data.root import DataMissingError, data_root

SIZE = 256


def imagenet_sample(size: int = 224, root: str | os.PathLike[str] | None = None) -> Pictures:
    """Read the pictures, RGB, their middle `size` by `size` pixels; the label is the number of the class.

    Args:
        size: 1 to 256 pixels.
        root: the data folder (see `data_root`).

    Raises:
        DataMissingError: the file is not there.
        ImportError: pillow is not installed.
        ValueError: an impossible size, or the file is damaged.
    """
    if not 1 <= size <= SIZE:
        raise ValueError(f"expected a size of 1 to {SIZE} pixels, got {size}")
    path = data_root(root) / "imagenet1k_sample" / "images.npz"
    if not path.is_file():
        raise DataMissingError(f"the ImageNet sample is not there: looked for {path}")
    pictures, labels = read_encoded(path, "jpeg")
    first, last = (SIZE - size) // 2, (SIZE - size) // 2 + size
    stacked = torch.from_numpy(np.stack([picture[first:last, first:last] for picture in pictures]))
    return Pictures(stacked.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))
