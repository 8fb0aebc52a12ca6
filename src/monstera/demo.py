"""The whole way on real data, in minutes: train on handwritten digits, plan, prune, compile, compare."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from monstera.compiler import compile as compile_native
from monstera.measure import EAGER, INDUCTOR, MONSTERA, ONNX_RUNTIME, Comparison, compare
from monstera.measure import Entry as Contestant
from monstera.pruning import ADMM
from monstera.runtime import Engine
from monstera.sparsity import Entry as Holes
from monstera.sparsity import Plan
from monstera.zoo import digits_cnn
from monstera.zoo.data import Pictures, digits

Progress = Callable[[str, float], None]
STAGES = ("train", "prune", "compile", "compare")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the demo does; the defaults train for about a minute on two cores.

    Attributes:
        side: the 8x8 pictures are enlarged to side x side pixels.
        width: channels of the first two convolutions.
        holes: the pattern, and the kept fraction of its groups.
        dense_epochs: passes over the training pictures before there are holes.
        admm_epochs: passes that pull the weights towards the plan; as many again tune what is left.
        threads: of every engine while times are taken; training uses what torch uses.
    """

    side: int = 24
    width: int = 64
    holes: Holes = field(default_factory=lambda: Holes("4x1", 0.125))
    dense_epochs: int = 10
    admm_epochs: int = 8
    batch: int = 32
    seed: int = 0
    threads: int = 1
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo found; the mappings go by the weights, "dense" or "sparse".

    `accuracy` (0..1) is that of the compiled program on the test pictures, one at a time; `program_bytes` is the size
    of the file it is saved as, and `weights_bytes` that of the torch module's parameters.
    """

    comparison: Comparison
    accuracy: dict[str, float]
    program_bytes: dict[str, int]
    weights_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Pictures ready for the network, float32 `[N, 1, side, side]`, and labels int64 `[N]`."""

    images: Tensor
    labels: Tensor

    def steps(self, size: int) -> int:
        """Return how many whole batches of `size` there are."""
        return len(self.labels) // size

    def batches(self, size: int, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the whole batches of every epoch, shuffled anew by torch's global generator."""
        for _ in range(epochs):
            order = torch.randperm(len(self.labels))
            for index in order[: self.steps(size) * size].split(size):
                yield self.images[index], self.labels[index]


def run(settings: Settings, folder: Path, progress: Progress = lambda _stage, _done: None) -> Outcome:
    """Do it all and save the two programs in `folder`; `progress(stage, done)` is told how far (0..1) a stage is."""
    folder.mkdir(parents=True, exist_ok=True)
    data = digits()
    train_set, test_set = (enlarged(part, settings.side) for part in (data.train, data.test))
    networks = trained(settings, train_set, progress)
    accuracy, program_bytes = {}, {}
    for weights, network in networks.items():
        engine = compile_native(network, test_set.images[:1], threads=settings.threads)
        path = folder / f"digits-{weights}.monstera"
        engine.save(path)
        program_bytes[weights] = os.path.getsize(path)
        accuracy[weights] = measured_accuracy(engine, test_set)
        progress("compile", len(accuracy) / len(networks))
    comparison = compared(settings, networks, test_set.images[:1], progress)
    weights_bytes = sum(p.numel() * p.element_size() for p in networks["dense"].parameters())
    return Outcome(comparison, accuracy, program_bytes, weights_bytes)


def enlarged(pictures: Pictures, side: int) -> Samples:
    """Return 8x8 pictures as side x side ones, values 0..255 brought to about -1..2."""
    images = F.interpolate(pictures.images.float(), size=(side, side), mode="bilinear")
    return Samples((images / 255 - 0.3) / 0.35, pictures.labels)


def trained(settings: Settings, train_set: Samples, progress: Progress) -> Mapping[str, nn.Module]:
    """Return the network trained without holes and, from there, with them, both in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = digits_cnn(settings.width)
        train(model, train_set, settings, progress)
        dense = copy.deepcopy(model)
        prune(model, train_set, settings, progress)
    return {"dense": dense.eval(), "sparse": model.eval()}


def train(model: nn.Module, train_set: Samples, settings: Settings, progress: Progress) -> None:
    """Train `model` in place, without holes."""
    steps = settings.dense_epochs * train_set.steps(settings.batch)
    optimizer = torch.optim.AdamW(model.parameters())
    rate = lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    batches = train_set.batches(settings.batch, settings.dense_epochs)
    _fit(model, batches, optimizer, rate, lambda step: progress("train", step / steps))


def prune(model: nn.Module, train_set: Samples, settings: Settings, progress: Progress) -> None:
    """Bring `model` to the plan by ADMM, in place: pull the weights towards it, project them, tune what is left."""
    half = settings.admm_epochs * train_set.steps(settings.batch)
    plan = Plan.uniform(model, settings.holes.pattern, settings.holes.density)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    pruner = ADMM(model, optimizer, plan, steps=2 * half, rho=(1e-3, 1e-2, 1e-1), harden_at=0.5)
    # While they are pulled, weights need a rate at which they can still move; the tuning then lets them settle.
    stay = lr_scheduler.ConstantLR(optimizer, factor=1.0)
    fall = lr_scheduler.CosineAnnealingLR(optimizer, T_max=half)
    rate = lr_scheduler.SequentialLR(optimizer, [stay, fall], milestones=[half])
    batches = train_set.batches(settings.batch, 2 * settings.admm_epochs)
    _fit(model, batches, optimizer, rate, lambda step: progress("prune", step / (2 * half)))
    pruner.finish()


def _fit(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    rate: lr_scheduler.LRScheduler,
    on_step: Callable[[int], None],
) -> None:
    """A plain training loop. That it prunes as well is between the optimizer and the pruner."""
    model.train()
    for step, (images, labels) in enumerate(batches, start=1):
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
        on_step(step)


def measured_accuracy(engine: Engine, test_set: Samples) -> float:
    """Return the part of the pictures that `engine`, given one at a time, gets right (0..1)."""
    answers = (engine(image[None]).argmax() for image in test_set.images)
    return sum(int(answer == label) for answer, label in zip(answers, test_set.labels, strict=True)) / len(
        test_set.labels
    )


def compared(settings: Settings, networks: Mapping[str, nn.Module], example: Tensor, progress: Progress) -> Comparison:
    """Time the dense network in every engine, and the sparse one in Monstera, on one picture at a time."""
    contestants = [Contestant(peer, networks["dense"]) for peer in (EAGER, INDUCTOR, ONNX_RUNTIME, MONSTERA)]
    contestants.append(Contestant(MONSTERA, networks["sparse"], "sparse"))
    # The right answers are computed first, then everybody is prepared, then all run.
    step, steps = count(1), 1 + len(contestants) + settings.rounds
    return compare(
        "digits_cnn",
        contestants,
        example,
        threads=settings.threads,
        rounds=settings.rounds,
        on_step=lambda _: progress("compare", next(step) / steps),
    )
