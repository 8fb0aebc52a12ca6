"""Examples to train on and to judge by, all of them in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monstera.pruning.streams import stream

EVALUATION_BATCH = 500
# Enough for the statistics of a batch norm: their error is about a percent.
BATCH_NORM_EXAMPLES = 5000


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What a network takes, such as pictures, float32 `[N, ...]`, and the classes, int64 `[N]`.

    Raises:
        ValueError: wrong types or shapes, or none.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.float32 or self.images.dim() < 2 or not len(self.images):
            raise ValueError(f"images: expected float32 [N, ...], got {self.images.dtype} {list(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            got = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise ValueError(f"labels: expected int64 [{len(self.images)}], got {got}")

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int = EVALUATION_BATCH) -> list[tuple[Tensor, Tensor]]:
        """All of them, in order."""
        return [*zip(self.images.split(size), self.labels.split(size), strict=True)]

    def statistics(self) -> list[Tensor]:
        """The inputs of the first few thousand, in batches, as batch norms are fitted to."""
        return [*self.images[:BATCH_NORM_EXAMPLES].split(EVALUATION_BATCH)]

    def balanced(self, count: int, seed: int = 0) -> Examples:
        """`count` of them or a few less, as many of each class, drawn by the seed.

        Raises:
            ValueError: a class has too few.
        """
        classes = self.labels.unique().tolist()
        each, order = count // len(classes), torch.randperm(len(self), generator=stream(seed, "subset", 0))
        chosen = [order[self.labels[order] == c][:each] for c in classes]
        if not each or any(len(some) < each for some in chosen):
            raise ValueError(f"expected {count} examples, {each} of each of {len(classes)} classes; there are too few")
        index = torch.cat(chosen)[torch.randperm(each * len(classes), generator=stream(seed, "subset", 1))]
        return Examples(self.images[index], self.labels[index])
