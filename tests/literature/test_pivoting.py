"""Matrix pivoting by hand, and against every permutation there is.

Source: R. Sredojevic et al., "Structured Deep Neural Network Pruning via Matrix Pivoting", 2017 (abstract): permute
coefficient matrices so that pruning yields structure, and take the permutations out of run time.
"""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import nn

from monstera.pruning import prune
from monstera.sparsity import Plan, channel_graph, pivot
from monstera.sparsity.scores import magnitude


def chain(rows: list[list[float]]) -> nn.Sequential:
    """A linear layer of the given weight, and one that sums its results with weights 1, 2, 3, ..."""
    first = nn.Linear(len(rows[0]), len(rows), bias=False)
    last = nn.Linear(len(rows), 1, bias=False)
    first.weight.data = torch.tensor(rows)
    last.weight.data = torch.arange(1.0, len(rows) + 1)[None]
    return nn.Sequential(first, nn.ReLU(), last)


def test_rows_with_like_columns_meet_and_the_next_layer_follows() -> None:
    # As they stand each block of two rows has one 3 in each column: half of the blocks keep half of the magnitude.
    model = chain([[3.0, 0.0], [0.0, 3.0], [3.0, 0.0], [0.0, 3.0]])
    plan = Plan({"0.weight": ("2x1", 0.5)})
    x = torch.tensor([[1.0, 10.0]])
    before = model(x).item()
    report = pivot(model, x, plan)
    assert (report.before, report.after) == (0.5, 1.0)
    prune(model, plan)
    assert model(x).item() == before == 3 * (1 + 3) + 30 * (2 + 4)
    ((_, order),) = report.orders.items()
    assert model[2].weight.tolist() == [[1.0 + k for k in order]]


def test_columns_meet_too_where_blocks_have_several() -> None:
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    model[2].weight.data = torch.tensor([[3.0, 0.0, 3.0, 0.0], [0.0, 0.5, 0.0, 0.5]])
    report = pivot(model, torch.zeros(1, 2), Plan({"2.weight": ("1x2", 0.25)}))
    assert report.before == pytest.approx(9 / 18.5)
    assert report.after == pytest.approx(18 / 18.5)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["2x1", "3x1", "2x2"])
def test_a_pivoted_weight_is_near_the_best_of_all_orders_and_never_worse_than_none(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = chain(torch.randn(6, 4).tolist())
    plan, score = Plan({"0.weight": (name, 0.34)}), magnitude(model[0].weight)
    kept = {
        order: float(own[plan.masks({"0.weight": own}, {"0.weight": own})["0.weight"]].sum() / score.sum())
        for order in permutations(range(6))
        if (own := score[list(order)]) is not None
    }
    report = pivot(model, torch.zeros(1, 4), plan)
    assert report.before == pytest.approx(kept[tuple(range(6))])
    assert report.after == pytest.approx(kept[next(iter(report.orders.values()), tuple(range(6)))])
    assert report.before <= report.after <= max(kept.values()) + 1e-12
    assert report.after >= report.before + 0.5 * (max(kept.values()) - report.before)


def test_blocks_that_are_rows_by_themselves_give_no_reason_to_reorder() -> None:
    model = chain(torch.randn(6, 4).tolist())
    graph = channel_graph(model, torch.zeros(1, 4))
    assert len(graph.groups) == 1
    for name in ("unstructured", "column", "filter", "1x2"):
        report = pivot(model, torch.zeros(1, 4), Plan({"0.weight": (name, 0.5)}))
        assert not report.orders
        assert report.before == report.after
