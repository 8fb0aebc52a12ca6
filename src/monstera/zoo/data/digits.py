"""scikit-learn's handwritten digits: 1,797 real pictures of 8x8 pixels that come with the package.

Source: Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998).
"""

from __future__ import annotations

import os

import numpy as np
import torch

from monstera.zoo.data.pictures import Pictures, PictureSet

TEST_PICTURES = 360
_SPLIT_SEED = 0


def digits(root: str | os.PathLike[str] | None = None) -> PictureSet:  # noqa: ARG001 (embedded; the signature is shared)
    """Read the digits: 1,437 training and 360 test pictures, grey 8x8, values spread over 0..255, split at random once.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("the digits come with scikit-learn: pip install 'monstera[data]'") from None
    values, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(np.rint(values * (255 / 16)).astype(np.uint8)).reshape(-1, 1, 8, 8)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    whole = Pictures(images, torch.from_numpy(labels.astype(np.int64)))
    train, test = whole.take(order[TEST_PICTURES:]), whole.take(order[:TEST_PICTURES])
    scaled = train.images.float() / 255
    mean, std = (float(scaled.mean()),), (float(scaled.std()),)
    return PictureSet("digits", train, test, mean, std, tuple(str(digit) for digit in range(10)))
