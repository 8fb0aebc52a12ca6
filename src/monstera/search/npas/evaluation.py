"""Fast evaluation of a scheme: inherited weights, one-shot pruning, a short training; the compiled network is timed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from monstera.measure.peers import torch_threads
from monstera.search.evaluation import FastAccuracy
from monstera.search.npas.base import Base
from monstera.search.npas.candidate import Inherited, build
from monstera.search.npas.latency import measured_ms, surviving_macs
from monstera.search.npas.outcome import Outcome
from monstera.search.npas.scheme import Scheme
from monstera.search.npas.turns import turn
from monstera.sparsity import projected_copy
from monstera.training import Examples, Training

MOST_EPOCHS = 2


@dataclass(frozen=True, slots=True)
class FastTraining:
    """The short training of an evaluation.

    Raises:
        ValueError: more than two epochs, or a number that is not positive.
    """

    epochs: int = 1
    lr: float = 0.03
    batch_size: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.epochs <= MOST_EPOCHS or self.batch_size < 2 or not self.lr > 0:
            raise ValueError(
                f"fast evaluation trains for one or {MOST_EPOCHS} epochs in batches of two or more, with a learning "
                f"rate above 0, got epochs={self.epochs}, batch_size={self.batch_size}, lr={self.lr}"
            )

    def accuracy(self, train: Examples, held_out: Examples, seed: int = 0) -> FastAccuracy:
        """How a candidate is judged: trained on `train`, in whole batches, and asked `held_out`."""
        tuning = Training(self.epochs, self.lr, self.batch_size, weight_decay=0.0, warmup=0.0)
        return FastAccuracy(held_out.batches(), tuning=tuning, examples=train, seed=seed)


@dataclass(frozen=True, slots=True, eq=False)
class FastEvaluation:
    """Call it with a scheme: the held-out accuracy after a short training, and what a call of the network costs.

    Latency is that of the pruned, untrained network: code depends on where zeros are and on nothing else of the values.

    Attributes:
        inherited: see `inherit`.
        accuracy: of a network and a plan; see `FastTraining.accuracy`.
        example: one call's input.
        threads: of the engine, and of torch in training.
        turns: a file by which the processes of one search take turns: while one measures, no other measures or trains.

    Source: Z. Li et al., "NPAS" (CVPR 2021), phase 2: inherited weights, one-shot magnitude pruning, two epochs.
    """

    base: Base
    inherited: Inherited
    accuracy: FastAccuracy
    example: Tensor
    threads: int = 1
    turns: Path | None = None

    def __call__(self, scheme: Scheme) -> Outcome:
        """Judge one scheme."""
        # Set here, as a new process would take every core, and other numbers of threads give other sums.
        with torch_threads(self.threads):
            with turn(self.turns, alone=True):
                model, plan = build(self.base, scheme, self.inherited)
                pruned = projected_copy(model, plan).eval()
                ms = measured_ms(pruned, self.example, threads=self.threads)
            with turn(self.turns, alone=False):
                macs = surviving_macs(pruned, self.example)
                return Outcome(self.accuracy(model, plan), ms, macs)
