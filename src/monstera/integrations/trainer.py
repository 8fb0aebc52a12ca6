"""Pruning inside the Trainer of the transformers package, by callback: the pruner sees each step of its optimizer."""

# ruff: noqa: ARG002 (the Trainer says what is passed)

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from monstera.pruning import Pruner, PruneReport

STATE = "monstera.pt"
Make: TypeAlias = Callable[[nn.Module, torch.optim.Optimizer, int], Pruner]

_log = logging.getLogger(__name__)


@final
class PruningCallback(TrainerCallback):
    """Prune the model of a Trainer while it trains; afterwards `report` says what `Pruner.finish` said.

    When training begins `make` is called with the model, its optimizer and the number of optimizer steps. The state
    of the pruner goes into every checkpoint, and comes back from it when training is resumed, which ends bit for bit
    like training that was not interrupted. The Trainer's log gets `density`, and residuals where there are some.

    Args:
        make: returns the attached pruner.
        resumed_from: the checkpoint that training is resumed from, if it does not lie in the output folder.

    Raises:
        ValueError: (in training) the Trainer shall load the best model at the end, whose holes would not be those of
            the plan, or searches for hyper-parameters.
        FileNotFoundError: (in training) a checkpoint without the state of a pruner is resumed.

    Example:
        >>> import monstera as ms
        >>> callback = PruningCallback(lambda model, optimizer, steps: ms.ADMM(
        ...     model, optimizer, ms.Plan.of(model, {"bert.encoder": ("4x1", 0.25)}), steps=steps))
    """

    def __init__(self, make: Make, resumed_from: str | Path | None = None) -> None:
        self.make, self.resumed_from = make, resumed_from
        self.pruner: Pruner | None = None
        self.report: PruneReport | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach the pruner, and go on where a checkpoint was made."""
        if args.load_best_model_at_end:
            raise ValueError(
                "load_best_model_at_end would bring back weights from before the holes were there; leave it out, and "
                "choose between whole runs"
            )
        if state.is_hyper_param_search:
            raise ValueError("a search for hyper-parameters keeps no checkpoints that a pruner can go on from")
        if self.pruner is not None:
            self.pruner.remove()  # training that broke off left it on the optimizer, which the Trainer keeps
        model, optimizer = kwargs["model"], _own(kwargs["optimizer"])
        self.pruner, self.report = self.make(model, optimizer, state.max_steps), None
        if state.global_step > 0:
            folder = self.resumed_from or _checkpoint(args, state)
            self.pruner.load_state_dict(_read(Path(folder) / STATE))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the pruner's state into the checkpoint that was just made."""
        if self.pruner is not None:
            saved = self.pruner.state_dict()  # on all processes, as each may hold parts
            if state.is_world_process_zero:
                torch.save(saved, _checkpoint(args, state) / STATE)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the density, and residuals, to what is logged."""
        if self.pruner is None or self.report is not None:
            return
        progress = self.pruner.progress()
        told = {"density": progress.density}
        if progress.residuals is not None:
            told |= {"primal_residual": progress.residuals.primal, "dual_residual": progress.residuals.dual}
        # Reporters that come after this one see `logs`, trainer_state.json the history.
        kwargs["logs"].update(told)
        state.log_history[-1].update(told)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Bring the weights exactly to the plan, and let go of the optimizer."""
        if self.pruner is not None:
            self.report = self.pruner.finish()
            _log.info("%s", self.report)


def _own(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside the one that accelerate wraps around it, which has no hooks."""
    return getattr(optimizer, "optimizer", optimizer)


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no state of a pruner to go on from; resume a checkpoint that was made with this callback, and "
            "name it as `resumed_from` if it does not lie in the output folder"
        )
    return torch.load(path, map_location="cpu", weights_only=True)
