"""Labelled pictures as plain tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """`images` uint8 `[N, channels, height, width]` and `labels` int64 `[N]`.

    Raises:
        ValueError: a wrong dtype or shape.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            got = f"{self.images.dtype} {list(self.images.shape)}"
            raise ValueError(f"images: expected uint8 [N, channels, height, width], got {got}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            got = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise ValueError(f"labels: expected int64 [{len(self.images)}], got {got}")

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Pictures:
        """The same on a device; no copy where they are there."""
        return Pictures(self.images.to(device), self.labels.to(device))

    def take(self, index: Tensor) -> Pictures:
        """The pictures at `index`, int64 `[M]`, as a copy."""
        return Pictures(self.images[index], self.labels[index])


@dataclass(frozen=True, slots=True, eq=False)
class PictureSet:
    """A data set: training and test pictures, and the channel mean and standard deviation of values in 0..1."""

    name: str
    train: Pictures
    test: Pictures
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        channels = self.train.images.shape[1]
        if not channels == self.test.images.shape[1] == len(self.mean) == len(self.std):
            raise ValueError(f"{self.name}: mean and std need one value for each of the {channels} channels")


def held_out(pictures: Pictures, n: int = 5000, seed: int = 0) -> tuple[Pictures, Pictures]:
    """Split training pictures at random in (the rest, `n` held out to choose hyper-parameters on).

    Raises:
        ValueError: `n` leaves one of the two empty.
    """
    if not 0 < n < len(pictures):
        raise ValueError(f"expected to hold out 1 to {len(pictures) - 1} of {len(pictures)} pictures, got {n}")
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))
    return pictures.take(order[n:].sort().values), pictures.take(order[:n].sort().values)
