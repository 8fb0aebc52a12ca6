"""One seed of a recipe: train, prune, checkpoint, resume, test."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monstera.pruning import Pruner
from monstera.pruning.streams import stream
from monstera.recipe.augment import augment
from monstera.recipe.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from monstera.recipe.graphed import GraphedBackward
from monstera.recipe.ingredients import (
    TEST_BATCH,
    Ingredients,
    make_distill,
    make_network,
    make_optimizer,
    make_pruner,
    steps_per_epoch,
)
from monstera.recipe.logs import Logging, logged
from monstera.recipe.reading import fingerprint
from monstera.recipe.report import Report, pruning_fields
from monstera.recipe.schema import Recipe
from monstera.training import DivergedError, count_correct, lr_factor

# Enough for the statistics of a batch norm: their error falls below a percent.
BATCH_NORM_PICTURES = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A finished seed: the sparse network in evaluation mode, on the CPU, and what the result file says about it."""

    model: nn.Module
    record: dict[str, Any]


def train_seed(
    recipe: Recipe,
    seed: int,
    things: Ingredients,
    path: Path,
    on_step: Callable[[Report], None] = lambda _: None,
    logging: Logging = Logging(),  # noqa: B008 (frozen)
) -> Trained:
    """Train one seed to its end, from its checkpoint at `path` if there is one; logs go beside it.

    The result depends on the recipe and the seed, and by roundings on the device and the number of threads: order and
    augmentation of step t come from (seed, t), so an interrupted run ends with the same weights as one that was not.

    Raises:
        CheckpointError: the checkpoint is damaged or of another recipe.
        DivergedError: the loss or its gradient became infinite or NaN.
    """
    run = _Run(recipe, seed, things)
    run.load(load_checkpoint(path, fingerprint(recipe)), path)
    began = time.perf_counter()
    every = recipe.checkpoint_every or run.per_epoch
    with logged(path, run.step, logging) as write:
        while run.step < run.steps:
            run.advance()
            report = run.report()
            on_step(report)
            if run.step % logging.every == 0 or run.step % run.per_epoch == 0:
                write(report)
            if run.step % every == 0 or run.step == run.steps:
                run.seconds += time.perf_counter() - began
                began = time.perf_counter()
                save_checkpoint(path, run.state())
    return run.finished()


class _Run:
    """The moving parts of one seed; `step` optimizer steps of `steps` are done."""

    def __init__(self, recipe: Recipe, seed: int, things: Ingredients) -> None:
        self.recipe, self.seed, self.things = recipe, seed, things.on(recipe.device)
        self.per_epoch = steps_per_epoch(recipe, len(things.train))
        self.steps, self.step = recipe.epochs * self.per_epoch, 0
        self.model = make_network(recipe, things.start, seed).to(recipe.device).train()
        # The module itself is tested, so that no other size of batch is compiled.
        self._network = torch.compile(self.model, dynamic=False) if recipe.compile else self.model
        self.distill = make_distill(recipe, self.model, things.start, seed)
        self.optimizer = make_optimizer(recipe, self.model)
        self.pruner: Pruner = make_pruner(recipe, self.model, self.optimizer, things.plan, self.steps, seed)
        if recipe.divergence_every:
            self.pruner.track_divergence(recipe.divergence_every)
        self.epochs: list[dict[str, Any]] = []
        self.seconds, self.loss_sum, self.threads = 0.0, 0.0, torch.get_num_threads()
        self._order = torch.empty(0, dtype=torch.int64)
        self.gpu = torch.cuda.get_device_name() if recipe.device == "cuda" else None
        self._graphed: GraphedBackward | None = None

    def load(self, state: dict[str, Any] | None, path: Path) -> None:
        if state is None:
            return
        try:
            self.pruner.load_state_dict(state["pruner"])
        except ValueError as error:  # the plan was read from a file that is another one now
            raise CheckpointError(f"{path}: {error}; start afresh (fresh=True)") from None
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.epochs = state["step"], state["epochs"]
        self.seconds, self.loss_sum, self.threads = state["seconds"], state["loss_sum"], state["threads"]
        # What was begun on a GPU may end elsewhere. Checkpoints from before there were GPUs name none.
        self.gpu = self.gpu or state.get("gpu")

    def state(self) -> dict[str, Any]:
        return {
            "fingerprint": fingerprint(self.recipe),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": self.pruner.state_dict(),
            "step": self.step,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "threads": self.threads,
            "gpu": self.gpu,
            "loss_sum": self.loss_sum,
        }

    def advance(self) -> None:
        """Take one optimizer step."""
        how = self.recipe.lr_schedule
        factor = lr_factor(self.step, self.steps, warmup=how.warmup, decay=how.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.optimizer.lr * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._passes(*self._batch())
        # A norm below infinity leaves every gradient as it is.
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm or math.inf)
        # Both at once, as to ask a GPU for a value is to wait for it.
        total, length = torch.stack([loss, norm]).tolist()
        self._refuse_infinite("the loss", total)
        self._refuse_infinite("the norm of the gradient", length)
        self.optimizer.step()
        self.step += 1
        self.loss_sum += total
        if self.step % self.per_epoch == 0:
            mean = self.loss_sum / self.per_epoch
            self.epochs.append(
                {"epoch": self.step // self.per_epoch, "loss": mean, **pruning_fields(self.pruner.progress())}
            )
            self.loss_sum = 0.0

    def report(self) -> Report:
        done = self.step % self.per_epoch
        loss = self.loss_sum / done if done else self.epochs[-1]["loss"]
        epoch, lr = (self.step - 1) // self.per_epoch + 1, self.optimizer.param_groups[0]["lr"]
        return Report(self.seed, epoch, loss, lr, self.pruner.progress(), self.pruner.densities())

    def finished(self) -> Trained:
        """Prune exactly, estimate batch-norm statistics anew and test."""
        if self.distill is not None:
            self.distill.remove()
        pruned = self.pruner.finish(self._batch_norm_batches())
        model = self.model.eval()
        correct, count = count_correct(model, self.things.batches(self.things.test))
        record = {
            "seed": self.seed,
            "accuracy": correct / count,
            "correct": correct,
            "density": {"planned_weights": pruned.plan.density, "all_parameters": pruned.plan.parameter_density},
            "training_seconds": round(self.seconds, 1),
            "training_threads": self.threads,
            **({"training_gpu": self.gpu} if self.gpu else {}),
            "epochs": self.epochs,
        }
        return Trained(model.cpu(), record)

    def _batch(self) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(self.step, self.per_epoch)
        if place == 0 or not len(self._order):
            self._order = torch.randperm(len(self.things.train), generator=stream(self.seed, "order", epoch))
        index = self._order[place * self.recipe.batch_size :][: self.recipe.batch_size]
        batch = self.things.train.take(index.to(self.recipe.device))
        images = augment(batch.images, self.recipe.augmentation, stream(self.seed, "augmentation", self.step))
        return self._laid_out(images), batch.labels

    def _passes(self, images: Tensor, labels: Tensor) -> Tensor:
        """Run both passes, and return the loss."""
        if self.recipe.device == "cpu":
            return self._backward(images, labels)
        if self._graphed is None:
            self._graphed = GraphedBackward(self._backward, self.model, images, labels)
        return self._graphed(images, labels)

    def _backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Add up the gradients of the batch's parts, and return the mean loss."""
        parts, losses = self.recipe.accumulate, []
        for some, answers in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            loss = self._loss(some, answers) / parts
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _refuse_infinite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise DivergedError(
                f"{self.recipe.name}, seed {self.seed}: {what} is {value} at step {self.step + 1} of "
                f"{self.steps}; try a lower optimizer.lr, or a method that pulls less"
            )

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(self.recipe.device, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            logits = self._network(images)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
            return loss if self.distill is None else self.distill(loss, logits, images)

    def _laid_out(self, images: Tensor) -> Tensor:
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        return self.things.normalised(images).contiguous(memory_format=layout)

    def _batch_norm_batches(self) -> Iterator[Tensor]:
        generator = stream(self.seed, "batch norm", 0)
        index = torch.randperm(len(self.things.train), generator=generator)[:BATCH_NORM_PICTURES]
        for part in index.split(TEST_BATCH):
            images = augment(self.things.train.images[part], self.recipe.augmentation, generator)
            yield self._laid_out(images)
