"""How the plans of a search are judged: by pictures that a recipe holds out of training."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from monstera.pruning.streams import stream
from monstera.recipe.ingredients import Ingredients
from monstera.search.evaluation import FastAccuracy
from monstera.training import Examples, Training
from monstera.zoo.data import Pictures


@dataclass(frozen=True, slots=True)
class Judging:
    """How a trial judges: on so many held-out pictures, after batch norm has seen so many batches of training ones.

    With `tuning_steps`, as many steps of training under the holes come before, of learning rate `tuning_lr`, on other
    pictures in each.

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
    """Make what judges plans; no picture that judges is among those of batch norm or tuning.

    Raises:
        ValueError: there are fewer pictures than tuning takes.
    """
    order = torch.randperm(len(things.train), generator=stream(0, "search", 0))
    examples = _examples(things, things.train.take(order[: judging.statistics * judging.batch]))
    statistics = [inputs for inputs, _ in examples.batches(judging.batch)]
    held_out = _examples(things, things.test.take(torch.arange(judging.pictures))).batches(judging.batch)
    if not judging.tuning_steps:
        return FastAccuracy(held_out, statistics)
    count = judging.tuning_steps * judging.batch
    if count > len(order):
        raise ValueError(f"tuning_steps: {count} pictures are more than the {len(order)} that training has; give less")
    # Pictures that training sees anyway, each once.
    tuned_on = _examples(things, things.train.take(order[:count]))
    tuning = Training(1, judging.tuning_lr, judging.batch, weight_decay=0.0, warmup=0.0)
    return FastAccuracy(held_out, statistics, tuning, tuned_on)


def _examples(things: Ingredients, pictures: Pictures) -> Examples:
    return Examples(things.normalised(pictures.images), pictures.labels)
