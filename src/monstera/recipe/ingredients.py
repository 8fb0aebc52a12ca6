"""From the words of a recipe to the things themselves: data, networks, plan, pruner, optimizer."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from monstera.modes import evaluating
from monstera.pruning import Distill, Pruner
from monstera.recipe.errors import RecipeError
from monstera.recipe.method_schema import GradualMethod, SppMethod
from monstera.recipe.plans import make_plan
from monstera.recipe.schema import Recipe, Sgd
from monstera.sparsity import Pivoting, Plan, PlanError, pivot, schedule
from monstera.training import METHODS, decay_groups
from monstera.zoo import load_cifar_resnet_state, network
from monstera.zoo.data import DataMissingError, Pictures, PictureSet, data_root, data_set, held_out

T = TypeVar("T")
TEST_BATCH = 500


@dataclass(frozen=True, slots=True, eq=False)
class Ingredients:
    """Everything a run needs, read and checked.

    `start` is the state that every seed starts from, None for afresh; pivoted, where `pivoting` says what that did.
    """

    train: Pictures
    test: Pictures
    tested_on: str
    mean: Tensor
    std: Tensor
    start: dict[str, Tensor] | None
    plan: Plan
    pivoting: Pivoting | None = None

    def on(self, device: torch.device | str) -> Ingredients:
        """The same with its pictures on a device; `start` stays where it is, as networks are made on the CPU."""
        train, test = self.train.to(device), self.test.to(device)
        return replace(self, train=train, test=test, mean=self.mean.to(device), std=self.std.to(device))

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 pictures as float32 around 0, memory layout kept."""
        return (images.float() / 255 - self.mean) / self.std

    def batches(self, pictures: Pictures, size: int = TEST_BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures as the network takes them, and their classes."""
        for images, labels in zip(pictures.images.split(size), pictures.labels.split(size), strict=True):
            yield self.normalised(images), labels


def gather(
    recipe: Recipe,
    where: str,
    root: str | os.PathLike[str] | None = None,
    read: Callable[[str, str | os.PathLike[str] | None], PictureSet] = data_set,
) -> Ingredients:
    """Read what the recipe names, before anything is trained; `read` gives a data set by name and data folder.

    Raises:
        RecipeError: a network, data set, checkpoint, pattern or schedule is unknown or does not fit; all are named.
    """
    problems: list[str] = []
    data = _try(problems, "data.name", lambda: read(recipe.data.name, root))
    model = _try(problems, "network", lambda: network(recipe.network.name, **recipe.network.options))
    stored = _try(problems, "network.checkpoint", lambda: read_start(recipe.network.checkpoint, root))
    if model is not None and stored is not None:
        _try(problems, "network.checkpoint", lambda: model.load_state_dict(stored))
    plan = model and _try(problems, "", lambda: make_plan(recipe.plan, model, Path(where).parent))
    if data is not None:
        problems += _misfits(recipe, len(data.train), data.train.images.shape[1])
    if model is not None and data is not None:
        _try(problems, "network", lambda: _answer(model, data.train))
    start, pivoting = stored, None
    if recipe.pivot and model and data and plan and not problems:
        pivoting = _try(problems, "pivot", lambda: pivot(model, data.train.images[:2].float(), plan))
        # A copy, as methods may prune when they are made.
        start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = model and _try(problems, "optimizer", lambda: make_optimizer(recipe, model))
    if plan and model and data and optimizer and not problems:
        steps = recipe.epochs * steps_per_epoch(recipe, len(data.train) - recipe.data.held_out)
        _try(problems, "method", lambda: make_pruner(recipe, model, optimizer, plan, steps, seed=0))
        _try(problems, "distillation", lambda: make_distill(recipe, model, start, seed=0))
    problems += [f"output: {problem}" for problem in unwritable(Path(recipe.output))]
    if recipe.device == "cuda" and not torch.cuda.is_available():
        problems.append("device: torch sees no CUDA GPU here; leave it out, or give --set device=cpu")
    if problems or data is None or plan is None:
        raise RecipeError(where, problems)
    train, test = data.train, data.test
    if recipe.data.held_out:
        train, test = held_out(train, recipe.data.held_out)
    tested_on = f"{len(test)} {'held-out training' if recipe.data.held_out else 'test'} pictures"
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (recipe.data.mean or data.mean, recipe.data.std or data.std))
    return Ingredients(train, test, tested_on, mean, std, start, plan, pivoting)


def make_network(recipe: Recipe, start: dict[str, Tensor] | None, seed: int) -> nn.Module:
    """Build the recipe's network from the start state, or afresh from `seed`; torch's global generator is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(recipe.network.name, **recipe.network.options)
    if start is not None:
        model.load_state_dict(start)
    return laid_out(model, recipe.channels_last)


def laid_out(model: nn.Module, channels_last: bool) -> nn.Module:
    """Move the model's weights to the memory layout asked for, in place; the values stay."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(memory_format=layout)  # pyright: ignore[reportCallIssue] (torch's stub lacks this form)


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer; weight decay acts on matrices and convolutions only."""
    asked = recipe.optimizer
    groups = decay_groups(model, asked.weight_decay)
    if isinstance(asked, Sgd):
        return torch.optim.SGD(groups, lr=asked.lr, momentum=asked.momentum, nesterov=asked.nesterov)
    return torch.optim.AdamW(groups, lr=asked.lr, betas=asked.betas)


def make_pruner(
    recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan, steps: int, seed: int
) -> Pruner:
    """Attach the recipe's method to the optimizer; `seed` is of what the method draws by chance."""
    how = recipe.method
    options = how.model_dump(exclude={"name"})
    if isinstance(how, SppMethod):
        options["seed"] = seed
    if isinstance(how, GradualMethod):
        end = max(1, round(options.pop("ramp") * steps))
        options["schedule"] = schedule(how.schedule, start_value=0.0, end_value=1.0, start_step=0, end_step=end)
    return METHODS[how.name](model, optimizer, plan, steps=steps, **options)


def make_distill(recipe: Recipe, model: nn.Module, start: dict[str, Tensor] | None, seed: int) -> Distill | None:
    """Let the model learn from the dense network that it starts as, if the recipe says so."""
    if recipe.distillation is None:
        return None
    teacher = make_network(recipe, start, seed).eval().to(next(model.parameters()).device)
    if recipe.compile:
        teacher.compile(dynamic=False)
    return Distill(model, teacher, **recipe.distillation.model_dump())


def steps_per_epoch(recipe: Recipe, pictures: int) -> int:
    """Whole batches only: what is left over meets another order in the next epoch."""
    return pictures // recipe.batch_size


def read_start(name: str | None, root: str | os.PathLike[str] | None = None) -> dict[str, Tensor] | None:
    """Read trained weights from a file here or in the data folder; without a name there are none.

    Raises:
        DataMissingError: there is no such file.
        ValueError: it is no checkpoint, or damaged.
    """
    if name is None:
        return None
    place = Path(name)
    if not place.is_file() and not place.is_absolute():
        place = data_root(root) / name
    if not place.is_file():
        raise DataMissingError(f"no such file: {' nor '.join(dict.fromkeys((name, str(place))))}")
    if place.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(place)
        except SafetensorError as error:
            raise ValueError(f"{place}: not a whole safetensors file ({error})") from None
    try:
        return load_cifar_resnet_state(place)
    except (pickle.UnpicklingError, EOFError, KeyError, RuntimeError, AttributeError, TypeError):
        raise ValueError(f"{place}: not a checkpoint that torch.save has written") from None


def _answer(model: nn.Module, pictures: Pictures) -> None:
    """Try the network on two pictures, and refuse one that does not say how likely each class is."""
    shape, classes = list(pictures.images.shape[1:]), int(pictures.labels.max()) + 1
    with torch.no_grad(), evaluating(model):
        try:
            answer = model(pictures.images[:2].float())
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"it does not take the pictures of data.name, {shape}: {error}") from None
    if not isinstance(answer, Tensor) or answer.dim() != 2 or answer.shape[1] < classes:
        got = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ValueError(f"expected [2, {classes} or more] for two pictures of {classes} classes, got {got}")


def unwritable(path: Path) -> list[str]:
    """Say why a result cannot be written to `path`, if it cannot."""
    if path.is_dir():
        return [f"{path} is a folder; name a file, such as {path / 'result.json'}"]
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        return [f"{path} cannot be written, as {above} is {'read-only' if above.is_dir() else 'no folder'}"]
    return []


def _misfits(recipe: Recipe, pictures: int, channels: int) -> list[str]:
    problems = []
    for field, values in (("data.mean", recipe.data.mean), ("data.std", recipe.data.std)):
        if values is not None and len(values) != channels:
            problems.append(f"{field}: expected {channels} values, one a channel, got {len(values)}")
    if recipe.data.held_out + recipe.batch_size > pictures:
        problems.append(
            f"batch_size: {recipe.batch_size} and data.held_out {recipe.data.held_out} are more than the "
            f"{pictures} training pictures"
        )
    return problems


def _try(problems: list[str], field: str, make: Callable[[], T]) -> T | None:
    """Collect what goes wrong, so that all of it is told at once; without a `field` the problems name their own."""
    try:
        return make()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        told = error.problems if isinstance(error, PlanError) else (str(error),)
        problems += [f"{field}: {problem}" if field else problem for problem in told]
        return None
