"""The one simple loop: one schedule, with or without a method of pruning and a teacher."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monstera.pruning import Distill
from monstera.pruning.batch_norm import reestimate_batch_norm
from monstera.pruning.streams import stream
from monstera.sparsity import Plan
from monstera.training.errors import DivergedError
from monstera.training.examples import Examples
from monstera.training.methods import METHODS
from monstera.training.optimizers import decay_groups
from monstera.training.rates import lr_factor


@dataclass(frozen=True, slots=True)
class Training:
    """How networks are trained: SGD with Nesterov momentum 0.9, learning rate up a line, then to 0 along a cosine.

    Attributes:
        warmup: the part of all steps in which the learning rate rises.
        weight_decay: of matrices and convolutions; biases and norms have none.
        flip: mirror half of the pictures of every batch.
        temperature, distillation: of what is learned from a teacher, where there is one; see `Distill`.

    Raises:
        ValueError: a number out of bounds.
    """

    epochs: int
    lr: float
    batch_size: int = 128
    weight_decay: float = 5e-4
    warmup: float = 0.1
    flip: bool = False
    temperature: float = 4.0
    distillation: float = 0.9

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or not self.lr > 0 or self.weight_decay < 0:
            raise ValueError(
                "training needs an epoch, batches of two and a learning rate above 0, got "
                f"epochs={self.epochs}, batch_size={self.batch_size}, lr={self.lr}, weight_decay={self.weight_decay}"
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup: expected a part of the steps, at least 0 and below 1, got {self.warmup}")


def train(
    model: nn.Module,
    plan: Plan,
    examples: Examples,
    how: Training,
    *,
    method: str = "asp",
    teacher: nn.Module | None = None,
    seed: int = 0,
    statistics: Iterable[Any] | None = None,
) -> nn.Module:
    """Train a copy of a network to the holes of a plan, and estimate its batch-norm statistics anew.

    The result depends on the arguments and the number of torch's threads alone, and torch's global generator is left
    alone. Whole batches are taken; what is left over meets another order in the next epoch. An empty plan is trained
    without a method.

    Args:
        model: where training begins; not changed.
        plan: verified at the end.
        method: one of `METHODS`.
        teacher: in evaluation mode; its logits are learned too, as `how` says.
        seed: of the order, what is mirrored, and dropout.
        statistics: batches for batch norm, as `reestimate_batch_norm` takes them; default those of `examples`.

    Returns:
        The trained copy, in evaluation mode.

    Raises:
        DivergedError: the loss became infinite or NaN.
        PlanError, PatternError, ValueError: the method does not take the plan, or there is less than one batch.
    """
    if len(examples) < how.batch_size:
        raise ValueError(f"batch_size: expected at most the {len(examples)} examples there are, got {how.batch_size}")
    model = copy.deepcopy(model).to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(decay_groups(model, how.weight_decay), lr=how.lr, momentum=0.9, nesterov=True)
    steps = how.epochs * (len(examples) // how.batch_size)
    pruner = METHODS[method](model, optimizer, plan, steps=steps) if plan else None
    distill = Distill(model, teacher, temperature=how.temperature, weight=how.distillation) if teacher else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "dropout", 0).initial_seed())
        for step, (images, labels) in enumerate(_batches(examples, how, seed)):
            for group in optimizer.param_groups:
                group["lr"] = how.lr * lr_factor(step, steps, warmup=how.warmup)
            optimizer.zero_grad(set_to_none=True)
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
            loss = loss if distill is None else distill(loss, logits, images)
            if not loss.isfinite():
                raise DivergedError(f"the loss is {loss.item()} at step {step + 1} of {steps}; try a lower lr")
            loss.backward()
            optimizer.step()
    if pruner is not None:
        pruner.finish()
    reestimate_batch_norm(model, examples.statistics() if statistics is None else statistics)
    return model.to(memory_format=torch.contiguous_format).eval()  # pyright: ignore[reportCallIssue]


def _batches(examples: Examples, how: Training, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    pictures = examples.images.dim() == 4
    for epoch in range(how.epochs):
        order = torch.randperm(len(examples), generator=stream(seed, "order", epoch))
        mirrored = torch.rand(len(examples), generator=stream(seed, "flip", epoch)) < 0.5
        for index in order.split(how.batch_size)[: len(examples) // how.batch_size]:
            images = examples.images[index]
            if how.flip:
                images = torch.where(mirrored[index].view(-1, *[1] * (images.dim() - 1)), images.flip(-1), images)
            layout = torch.channels_last if pictures else torch.contiguous_format
            yield images.contiguous(memory_format=layout), examples.labels[index]
