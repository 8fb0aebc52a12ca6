"""Random crops and mirror images of a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from monstera.recipe.schema import Augmentation


def augment(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Crop each picture at random from its black-padded self, and mirror half of them.

    Args:
        images: uint8 `[N, channels, height, width]` on any device, not changed.
        generator: of the CPU, wherever the pictures are; its state decides everything.

    Returns:
        The same shape and dtype; rows and columns are gathered in one go, so memory is laid out channels last.
    """
    n, _, height, width = images.shape
    pad = how.crop_padding
    if not pad and not how.flip:
        return images
    rows = torch.arange(height) + _draw(2 * pad + 1, n, generator)
    columns = torch.arange(width) + _draw(2 * pad + 1, n, generator)
    if how.flip:
        columns = torch.where(_draw(2, n, generator) == 1, columns.flip(1), columns)
    padded = F.pad(images, (pad, pad, pad, pad))
    places = torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]
    picture, row, column = (place.to(images.device) for place in places)
    crops = padded[picture, :, row, column]
    return crops.permute(0, 3, 1, 2)


def _draw(choices: int, n: int, generator: torch.Generator) -> Tensor:
    return torch.randint(choices, (n, 1), generator=generator)
