"""The accuracy of a plan in seconds: prune a copy at once, tune it a little, fit batch norm, and ask held-out data."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monstera.modes import evaluating
from monstera.pruning import ASP, prune, reestimate_batch_norm
from monstera.pruning.streams import stream
from monstera.sparsity import Plan


@dataclass(frozen=True, slots=True, eq=False)
class ShortTuning:
    """A few steps of SGD with the holes held: momentum 0.9, learning rate to 0 along a cosine, cross entropy.

    Attributes:
        batches: (inputs, labels), taken in an order drawn from the seed, again and again; never held-out ones.

    Raises:
        ValueError: no batches, no steps, or a learning rate that is not positive.
    """

    batches: Sequence[tuple[Tensor, Tensor]]
    steps: int
    lr: float = 0.01

    def __post_init__(self) -> None:
        if not len(self.batches) or self.steps < 1 or not self.lr > 0:
            raise ValueError(
                f"short tuning needs batches, steps and a learning rate above 0, got {len(self.batches)} batches, "
                f"{self.steps} steps, lr {self.lr}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class FastAccuracy:
    """How accurate a network is with the holes of a plan, judged fast: call it with the network and the plan.

    The network is copied; a plan is projected at once, weights are tuned if `tuning` says so, running statistics of
    batch norm are always estimated anew, and then the held-out batches are answered. The same network, plan and seed
    give the same number, on the same machine and with as many threads. All plans see the same batches in the same
    order, so that what differs is theirs.

    A search picks what is best on `held_out`, so that accuracy there flatters what it picked: no test data belongs
    there, and what is reported is measured on test data, afterwards.

    Attributes:
        held_out: (inputs, labels), which neither `statistics` nor `tuning` have.
        statistics: batches for batch norm, as `reestimate_batch_norm` takes them; may be empty if there is none.
        tuning: steps after the projection; default none.
        seed: of what training draws by chance: the order of batches, dropout.

    Raises:
        ValueError: there is nothing held out.
    """

    held_out: Sequence[tuple[Tensor, Tensor]]
    statistics: Sequence[Any] = ()
    tuning: ShortTuning | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.held_out):
            raise ValueError("held_out: expected batches of (inputs, labels) to judge by, got none")

    def __call__(self, model: nn.Module, plan: Plan) -> float:
        """Return the fraction of held-out examples in the right class. The model is not changed.

        Raises:
            PlanError: the plan does not fit the model.
            ValueError: there is batch norm, and no batches to fit it; or the model gives no `[N, classes]`.
        """
        model = copy.deepcopy(model)
        if self.tuning is None:
            prune(model, plan)
        else:
            _tune(model, plan, self.tuning, self.seed)
        reestimate_batch_norm(model, self.statistics)
        return accuracy(model, self.held_out)


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the fraction of examples that a model, in evaluation mode, puts in the right class.

    Raises:
        ValueError: there are no examples, or the model gives no tensor `[N, classes]`.
    """
    correct = count = 0
    with evaluating(model):
        for inputs, labels in batches:
            logits = model(inputs)
            if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(labels):
                got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise ValueError(f"accuracy: expected the model to give [{len(labels)}, classes], got {got}")
            correct += int((logits.argmax(1) == labels).sum())
            count += len(labels)
    if not count:
        raise ValueError("accuracy: no examples were given")
    return correct / count


def _tune(model: nn.Module, plan: Plan, how: ShortTuning, seed: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=how.lr, momentum=0.9)
    # One shot, then masks and tied values held. A plan without holes has nothing to hold.
    pruner = ASP(model, optimizer, plan, steps=how.steps) if plan else None
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "dropout", 0).initial_seed())
        for step in range(how.steps):
            epoch, place = divmod(step, len(how.batches))
            order = torch.randperm(len(how.batches), generator=stream(seed, "order", epoch))
            for group in optimizer.param_groups:
                group["lr"] = how.lr * (1 + math.cos(math.pi * step / how.steps)) / 2
            inputs, labels = how.batches[int(order[place])]
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    if pruner is not None:
        pruner.finish()
