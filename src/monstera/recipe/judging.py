"""How the plans of a search are judged: by pictures that a recipe holds out of training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monstera.pruning.streams import stream
from monstera.recipe.ingredients import Ingredients
from monstera.search.evaluation import FastAccuracy, ShortTuning


@dataclass(frozen=True, slots=True)
class Judging:
    """How a trial judges: on so many held-out pictures, after batch norm has seen so many batches of training ones.

    With `tuning_steps`, as many steps of training under the holes come before, of learning rate `tuning_lr`.

    Raises:
        ValueError: a count below 1, or a negative number of steps.
    """

    pictures: int = 2000
    statistics: int = 20
    batch: int = 100
    tuning_steps: int = 0
    tuning_lr: float = 0.01

    def __post_init__(self) -> None:
        if min(self.pictures, self.statistics, self.batch) < 1 or self.tuning_steps < 0:
            raise ValueError(f"judging: expected counts from 1 and tuning_steps from 0, got {self}")

    def __str__(self) -> str:
        tuned = f"tuned for {self.tuning_steps} steps" if self.tuning_steps else "pruned at once"
        return f"{self.pictures} held-out training pictures, {tuned}"


def judge(things: Ingredients, judging: Judging) -> FastAccuracy:
    """Make what judges plans; no picture that judges is among those of batch norm or tuning."""
    order = torch.randperm(len(things.train), generator=stream(0, "search", 0))
    statistics = _batches(things, order[: judging.statistics * judging.batch], judging.batch)
    tuning = None
    if judging.tuning_steps:
        # Pictures that training sees anyway; each once, while there are enough.
        tuning = ShortTuning(
            _batches(things, order[: judging.tuning_steps * judging.batch], judging.batch),
            judging.tuning_steps,
            judging.tuning_lr,
        )
    held_out = things.test.take(torch.arange(judging.pictures))
    images, labels = things.normalised(held_out.images), held_out.labels
    batches = [*zip(images.split(judging.batch), labels.split(judging.batch), strict=True)]
    return FastAccuracy(batches, [inputs for inputs, _ in statistics], tuning)


def _batches(things: Ingredients, index: Tensor, batch: int) -> list[tuple[Tensor, Tensor]]:
    pictures = [things.train.take(part) for part in index.split(batch)]
    return [(things.normalised(some.images), some.labels) for some in pictures]
