"""Shares a budget out: one option for each layer, the least loss in total. A multiple-choice knapsack."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np

# The budget is counted in so many equal cells.
CELLS = 1 << 14

# What floating point may be off by when costs add up to a budget exactly.
_SLACK = 1e-9


class InfeasibleError(ValueError):
    """No choice fits the budget; `least` is what the cheapest costs."""

    def __init__(self, budget: float, least: float) -> None:
        self.budget, self.least = budget, least
        super().__init__(f"the cheapest choice costs {least:g}, the budget is {budget:g}; raise the budget")

    def __reduce__(self) -> tuple[type[InfeasibleError], tuple[float, float]]:
        return type(self), (self.budget, self.least)


def allocate(
    costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], budget: float, *, cells: int = CELLS
) -> tuple[int, ...]:
    """Choose one option for each layer: the least sum of losses among those whose costs stay within the budget.

    Dynamic programming over what the budget leaves above the cheapest options, counted in `cells` equal cells. What an
    option costs above the cheapest of its layer is rounded up to whole cells, so the budget is always kept; the losses
    are no more than those of the best choice within `budget - layers * (budget - cheapest) / cells`. Where the least
    losses of all layers fit together, they are the answer, to the last bit.

    Args:
        costs: for each layer the costs of its options, in any unit, finite.
        losses: for each layer the losses of the same options, finite; they may be negative.
        budget: what the chosen costs may add up to.
        cells: more are finer and slower; time and memory grow with `layers * cells`.

    Returns:
        The index of the chosen option of each layer; of options equally good the first.

    Raises:
        InfeasibleError: the cheapest options cost more than the budget.
        ValueError: a layer without options, lists of different lengths, or a number that is not finite.
    """
    _check(costs, losses, budget, cells)
    cheapest = [min(layer) for layer in costs]
    least = sum(cheapest)
    room = budget - least
    if room < -_SLACK * max(abs(budget), abs(least)):
        raise InfeasibleError(budget, least)
    best = [_first_least(own, cost) for cost, own in zip(costs, losses, strict=True)]
    if sum(layer[i] for layer, i in zip(costs, best, strict=True)) <= budget:
        return tuple(best)
    if room <= 0:
        return tuple(_first_least(cost, own) for cost, own in zip(costs, losses, strict=True))
    cell = room / cells
    steps = [
        [int(np.ceil((cost - base) / cell * (1 - _SLACK))) for cost in layer]
        for layer, base in zip(costs, cheapest, strict=True)
    ]
    return _knapsack(steps, losses, cells)


def _knapsack(steps: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], cells: int) -> tuple[int, ...]:
    """The same in whole numbers of cells; the cheapest options cost 0."""
    # The least loss of the layers so far, by cells that may be used: the row never rises.
    least = np.zeros(cells + 1)
    chosen = np.zeros((len(steps), cells + 1), np.int32)
    for layer, (own, loss) in enumerate(zip(steps, losses, strict=True)):
        so_far = np.full(cells + 1, np.inf)
        for option, (step, add) in enumerate(zip(own, loss, strict=True)):
            if step > cells:
                continue
            offered = least[: cells + 1 - step] + add
            better = offered < so_far[step:]
            so_far[step:][better] = offered[better]
            chosen[layer, step:][better] = option
        least = so_far
    left, answer = cells, []
    for layer in reversed(range(len(steps))):
        answer.append(int(chosen[layer, left]))
        left -= steps[layer][answer[-1]]
    return tuple(reversed(answer))


def _first_least(first: Sequence[float], then: Sequence[float]) -> int:
    """The index of the smallest value; among equals the one with the smaller of `then`."""
    return min(range(len(first)), key=lambda i: (first[i], then[i]))


def _check(costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], budget: float, cells: int) -> None:
    if [*map(len, costs)] != [*map(len, losses)]:
        raise ValueError(f"costs have {[*map(len, costs)]} options a layer, losses {[*map(len, losses)]}")
    if empty := [i for i, layer in enumerate(costs) if not layer]:
        raise ValueError(f"layer {empty[0]} has no option; offer at least one, such as dense")
    if wrong := [v for rows in (costs, losses, [[budget]]) for row in rows for v in row if not isfinite(v)]:
        raise ValueError(f"costs, losses and the budget must be finite, got {wrong[0]}")
    if cells < 1:
        raise ValueError(f"cells is a whole number >= 1, got {cells}")
