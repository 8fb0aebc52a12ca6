"""The accuracy of a plan in seconds: prune a copy at once, tune it a little, fit batch norm, and ask held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from monstera.pruning import reestimate_batch_norm
from monstera.sparsity import Plan, projected_copy
from monstera.training import Examples, Training, accuracy, train


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
        held_out: (inputs, labels), which neither `statistics` nor `examples` have.
        statistics: batches for batch norm, as `reestimate_batch_norm` takes them; may be empty if there is none. By
            default those of `examples`, if there are any.
        tuning: a short training after the projection, on `examples`; default none.
        seed: of what training draws by chance: the order of examples, dropout.

    Raises:
        ValueError: there is nothing held out, or only one of `tuning` and `examples`.
    """

    held_out: Sequence[tuple[Tensor, Tensor]]
    statistics: Sequence[Any] = ()
    tuning: Training | None = None
    examples: Examples | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.held_out):
            raise ValueError("held_out: expected batches of (inputs, labels) to judge by, got none")
        if (self.tuning is None) != (self.examples is None):
            raise ValueError("tuning needs examples to train on, and examples are for tuning: give both, or neither")

    def __call__(self, model: nn.Module, plan: Plan) -> float:
        """Return the fraction of held-out examples in the right class. The model is not changed.

        Raises:
            PlanError: the plan does not fit the model.
            ValueError: there is batch norm, and no batches to fit it; or the model gives no `[N, classes]`.
            DivergedError: the loss became infinite or NaN while weights were tuned.
        """
        if self.tuning is None or self.examples is None:
            model = projected_copy(model, plan)
            reestimate_batch_norm(model, self.statistics)
        else:
            statistics = self.statistics if len(self.statistics) else self.examples.statistics()
            model = train(model, plan, self.examples, self.tuning, seed=self.seed, statistics=statistics)
        return accuracy(model, self.held_out)
