"""Fast evaluation of a scheme: inherited weights, one-shot pruning, a short training; the compiled network is timed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from monstera.search.npas.base import Base
from monstera.search.npas.candidate import Inherited, build
from monstera.search.npas.latency import measured_ms, pruned_copy, surviving_macs
from monstera.search.npas.outcome import Outcome
from monstera.search.npas.scheme import Scheme
from monstera.search.npas.training import Examples, Training, count_correct, train


@dataclass(frozen=True, slots=True, eq=False)
class FastEvaluation:
    """Call it with a scheme: the held-out accuracy after a short training, and what a call of the network costs.

    Latency is that of the pruned, untrained network: code depends on where zeros are and on nothing else of the values.
    Every scheme sees the same examples in the same order.

    Attributes:
        inherited: see `inherit`.
        train: what the short training has, a subset for speed; never the held-out examples.
        held_out: what accuracy is judged by; never test data.
        training: two epochs at most, or it is no fast evaluation.
        example: one call's input.

    Raises:
        ValueError: more than two epochs.

    Source: Z. Li et al., "NPAS" (CVPR 2021), phase 2: inherited weights, one-shot magnitude pruning, two epochs.
    """

    base: Base
    inherited: Inherited
    train: Examples
    held_out: Examples
    training: Training
    example: Tensor
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.training.epochs > 2:
            raise ValueError(f"fast evaluation trains for two epochs at most, got {self.training.epochs}")

    def __call__(self, scheme: Scheme) -> Outcome:
        """Judge one scheme."""
        model, plan = build(self.base, scheme, self.inherited)
        pruned = pruned_copy(model, plan)
        ms, macs = measured_ms(pruned, self.example, threads=self.threads), surviving_macs(pruned, self.example)
        trained = train(model, plan, self.train, self.training, seed=self.seed)
        return Outcome(count_correct(trained, self.held_out) / len(self.held_out), ms, macs)
