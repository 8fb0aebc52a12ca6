"""Training of candidates: one schedule for all of them, with or without a method of pruning and a teacher."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monstera.pruning import ADMM, ASP, SPP, SRSTE, Distill, Gradual, GroupLasso, Pruner, Reweighted
from monstera.pruning.batch_norm import reestimate_batch_norm
from monstera.pruning.streams import stream
from monstera.sparsity import Plan

Method: TypeAlias = Callable[[nn.Module, torch.optim.Optimizer, Plan, int], Pruner]

# Methods that phase 3 chooses among, each as its class has it by default.
METHODS: Mapping[str, Method] = {
    "asp": lambda model, optimizer, plan, steps: ASP(model, optimizer, plan, steps=steps),
    "gradual": lambda model, optimizer, plan, steps: Gradual(model, optimizer, plan, steps=steps),
    "admm": lambda model, optimizer, plan, steps: ADMM(model, optimizer, plan, steps=steps),
    "group_lasso": lambda model, optimizer, plan, steps: GroupLasso(model, optimizer, plan, steps=steps),
    "reweighted": lambda model, optimizer, plan, steps: Reweighted(model, optimizer, plan, steps=steps),
    "srste": lambda model, optimizer, plan, steps: SRSTE(model, optimizer, plan, steps=steps),
    "spp": lambda model, optimizer, plan, steps: SPP(model, optimizer, plan, steps=steps),
}
EVALUATION_BATCH = 500
BATCH_NORM_PICTURES = 5000


class DivergedError(RuntimeError):
    """The loss of a training became infinite or NaN."""


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Pictures as a network takes them, float32 `[N, channels, height, width]`, and their classes, int64 `[N]`.

    Raises:
        ValueError: wrong types or shapes, or none.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.float32 or self.images.dim() != 4 or not len(self.images):
            got = f"{self.images.dtype} {list(self.images.shape)}"
            raise ValueError(f"images: expected float32 [N, channels, height, width], got {got}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            got = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise ValueError(f"labels: expected int64 [{len(self.images)}], got {got}")

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int = EVALUATION_BATCH) -> list[tuple[Tensor, Tensor]]:
        """All of them, in order."""
        return [*zip(self.images.split(size), self.labels.split(size), strict=True)]

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

    def factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied by at a step counted from 0; never exactly 0."""
        warm = round(self.warmup * steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def train(
    model: nn.Module,
    plan: Plan,
    examples: Examples,
    how: Training,
    *,
    method: str = "asp",
    teacher: nn.Module | None = None,
    seed: int = 0,
) -> nn.Module:
    """Train a copy of a network to the holes of a plan, and estimate its batch-norm statistics anew.

    The result depends on the arguments and the number of torch's threads alone. Whole batches are taken; what is left
    over meets another order in the next epoch. An empty plan is trained without a method.

    Args:
        model: where training begins; not changed.
        plan: verified at the end.
        method: one of `METHODS`.
        teacher: in evaluation mode; its logits are learned too, as `how` says.

    Returns:
        The trained copy, in evaluation mode.

    Raises:
        DivergedError: the loss became infinite or NaN.
        PlanError, PatternError, ValueError: the method does not take the plan, or there is less than one batch.
    """
    if len(examples) < how.batch_size:
        raise ValueError(f"batch_size: expected at most the {len(examples)} examples there are, got {how.batch_size}")
    model = copy.deepcopy(model).to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = _optimizer(model, how)
    steps = how.epochs * (len(examples) // how.batch_size)
    pruner = METHODS[method](model, optimizer, plan, steps) if plan else None
    distill = Distill(model, teacher, temperature=how.temperature, weight=how.distillation) if teacher else None
    for step, (images, labels) in enumerate(_batches(examples, how, seed)):
        for group in optimizer.param_groups:
            group["lr"] = how.lr * how.factor(step, steps)
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
    reestimate_batch_norm(model, examples.images[:BATCH_NORM_PICTURES].split(EVALUATION_BATCH))
    return model.to(memory_format=torch.contiguous_format).eval()  # pyright: ignore[reportCallIssue]


def _optimizer(model: nn.Module, how: Training) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.dim() > 1]
    spared = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": how.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=how.lr, momentum=0.9, nesterov=True)


def _batches(examples: Examples, how: Training, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in range(how.epochs):
        order = torch.randperm(len(examples), generator=stream(seed, "order", epoch))
        mirrored = torch.rand(len(examples), generator=stream(seed, "flip", epoch)) < 0.5
        for index in order.split(how.batch_size)[: len(examples) // how.batch_size]:
            images = examples.images[index]
            if how.flip:
                images = torch.where(mirrored[index, None, None, None], images.flip(3), images)
            yield images.contiguous(memory_format=torch.channels_last), examples.labels[index]
