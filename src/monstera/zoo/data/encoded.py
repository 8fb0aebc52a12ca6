"""Files of pictures (JPEG, WebP) that lie end to end in one array of an .npz file, as in `shared/data`."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def read_encoded(path: Path, name: str) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
    """Return the pictures, RGB `[height, width, 3]` each, and the labels of an .npz file.

    Args:
        name: of the array that holds the bytes; "offsets" says where each picture begins, and where the last ends.

    Raises:
        ImportError: pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError(f"{path} holds encoded pictures, which need pillow: pip install 'monstera[data]'") from None
    with np.load(path, allow_pickle=False) as file:
        data, offsets, labels = file[name], file["offsets"], file["labels"]
    pictures = [
        np.asarray(Image.open(io.BytesIO(data[start:end].tobytes())).convert("RGB")) for start, end in pairwise(offsets)
    ]
    return pictures, labels.astype(np.int64)
