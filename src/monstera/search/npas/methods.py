"""Phase 3 of NPAS: which of our methods prunes a given network by a given plan best, and the networks it makes."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from monstera.search.npas.records import read_record
from monstera.sparsity import PatternError, Plan, PlanError
from monstera.sparsity.errors import suggestion
from monstera.sparsity.files import write_tensors
from monstera.training import METHODS, DivergedError, Examples, Training, accuracy, train


@dataclass(frozen=True, slots=True)
class ShortRun:
    """What a method reached in a short run: accuracy on held-out examples, or a note that says why there is none."""

    method: str
    accuracy: float | None
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """A network that goes into the final training: where that begins, and the holes it is to get (none: dense)."""

    name: str
    model: nn.Module
    plan: Plan


@dataclass(frozen=True, slots=True, eq=False)
class Finals:
    """How contenders are trained for good, all of them alike.

    Attributes:
        methods: names of `METHODS` that compete.
        short_train, short: what they have in the short run and how; they are judged on `held_out`.
        train, full: the same of the full run.
        test: judged once, after the last epoch.
        teacher: the unpruned network, in evaluation mode, that all learn from in short and full runs.
        seeds: of the full run.

    Raises:
        ValueError: an unknown method, or no method or seed.
    """

    methods: tuple[str, ...]
    short_train: Examples
    short: Training
    held_out: Examples
    train: Examples
    full: Training
    test: Examples
    teacher: nn.Module
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if wrong := [name for name in self.methods if name not in METHODS]:
            raise ValueError(f"no method is called {wrong[0]!r}; {suggestion(wrong[0], METHODS)}")
        if not self.methods or not self.seeds:
            raise ValueError("finals need at least one method and one seed")

    def run(self, contender: Contender, folder: Path) -> dict[str, Any]:
        """Choose the method in short runs, train every seed at full length, test: a record of plain values.

        What `folder` has already is not done again: the plan, the short runs and each seed have files there.
        """
        contender.plan.save(folder / "plan.yaml")
        tried = read_record(folder / "methods.json", lambda: [asdict(one) for one in self._tried(contender)])
        method = best_method([ShortRun(**one) for one in tried])
        seeds = [self._seed(contender, method, seed, folder) for seed in self.seeds]
        accuracies = [seed["accuracy"] for seed in seeds]
        return {
            "method": method,
            "tried": tried,
            "accuracy_mean": statistics.fmean(accuracies),
            "accuracy_std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
            "seeds": seeds,
        }

    def trained(self, contender: Contender, seed: int, folder: Path) -> nn.Module:
        """The network that a seed has left in `folder`, in evaluation mode."""
        model = copy.deepcopy(contender.model)
        model.load_state_dict(safetensors.torch.load_file(folder / f"seed-{seed}.safetensors"))
        return model.eval()

    def _tried(self, contender: Contender) -> list[ShortRun]:
        if not contender.plan:
            return [ShortRun("asp", None, "nothing is pruned, so that no method is needed")]
        return [self._short(contender, name) for name in self.methods]

    def _short(self, contender: Contender, method: str) -> ShortRun:
        try:
            made = train(
                contender.model, contender.plan, self.short_train, self.short, method=method, teacher=self.teacher
            )
        except (PatternError, PlanError, ValueError, DivergedError) as error:
            return ShortRun(method, None, str(error))
        return ShortRun(method, accuracy(made, self.held_out.batches()))

    def _seed(self, contender: Contender, method: str, seed: int, folder: Path) -> dict[str, Any]:
        return read_record(folder / f"seed-{seed}.json", lambda: self._train(contender, method, seed, folder))

    def _train(self, contender: Contender, method: str, seed: int, folder: Path) -> dict[str, Any]:
        made = train(
            contender.model, contender.plan, self.train, self.full, method=method, teacher=self.teacher, seed=seed
        )
        found = accuracy(made, self.test.batches())
        # The weights first: a record stands for a seed that is done.
        write_tensors(made.state_dict(), folder / f"seed-{seed}.safetensors")
        return {"seed": seed, "accuracy": found}


def best_method(tried: Sequence[ShortRun]) -> str:
    """The method of the best accuracy, of equal ones the first.

    Raises:
        ValueError: all failed; why is in the message.
    """
    if len(tried) == 1:
        return tried[0].method
    judged = [one for one in tried if one.accuracy is not None]
    if not judged:
        told = "\n  - ".join(f"{one.method}: {one.note}" for one in tried)
        raise ValueError(f"no method can prune this network by its plan:\n  - {told}")
    return max(judged, key=lambda one: one.accuracy or 0.0).method
