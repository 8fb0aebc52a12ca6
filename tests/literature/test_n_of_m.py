"""N:M masks by trying every mask, and ASP by hand. Sources: arXiv 2102.04010, 2104.08378; NVIDIA's ASP."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from monstera.pruning import ASP, hold, prune
from monstera.sparsity import PLAIN, Layout, NOfM, Plan, pattern, search_permutation

# Rows of two groups of four: the two largest magnitudes of each are 4 and 3, then 0.7 and 0.6.
ROW = [4.0, -1.0, 3.0, 2.0, 0.5, -0.7, 0.6, 0.1]
KEPT = [4.0, 0.0, 3.0, 0.0, 0.0, -0.7, 0.6, 0.0]

# Name, shape, layout: ragged ends of `in`, positions, groups, parts, `in` first, vectors with a shorter last one.
TINY = [
    ("2:4", (2, 5), PLAIN),
    ("2:4", (2, 6), PLAIN),
    ("1:2", (2, 3, 1, 2), PLAIN),
    ("1:3", (2, 5), PLAIN),
    ("2:3", (2, 4), PLAIN),
    ("1:2", (4, 2, 1), Layout(groups=2)),
    ("1:2", (6, 2), Layout(parts=3)),
    ("1:2", (3, 4), Layout(transposed=True)),
    ("2x1@1:2", (3, 5), PLAIN),
    ("2x1@2:4", (3, 6), PLAIN),
    ("4x1@2:4", (6, 5), PLAIN),
    ("3x1@1:2", (6, 4), Layout(parts=2)),
    ("2x1@1:2", (3, 3, 2), PLAIN),
]


def _cells(layout: Layout, shape: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """(slice, out, in, position) of every weight in memory order, by the definition of a layout."""
    positions = torch.Size(shape[2:]).numel()
    if layout.transposed:
        rows = shape[1] // layout.parts
        return [(o // rows, o % rows, i, p) for i, o, p in product(range(shape[0]), range(shape[1]), range(positions))]
    rows = shape[0] // (layout.parts * layout.groups)
    return [(o // rows, o % rows, i, p) for o, i, p in product(range(shape[0]), range(shape[1]), range(positions))]


def _best_energy(weight: Tensor, vector: int, n: int, m: int, layout: Layout) -> float:
    """The most energy that any choice of blocks keeps, of all choices with at most n of m neighbours."""
    energy: dict[tuple[int, ...], float] = {}
    for (s, o, i, p), value in zip(_cells(layout, tuple(weight.shape)), weight.flatten().tolist(), strict=True):
        block = (s, o // vector, i, p)
        energy[block] = energy.get(block, 0.0) + value**2
    blocks = list(energy)
    runs = [(s, o, i // m, p) for s, o, i, p in blocks]
    best = 0.0
    for chosen in product((False, True), repeat=len(blocks)):
        taken = [run for run, yes in zip(runs, chosen, strict=True) if yes]
        if all(taken.count(run) <= n for run in set(taken)):
            best = max(best, sum(energy[block] for block, yes in zip(blocks, chosen, strict=True) if yes))
    return best


@pytest.mark.parametrize(("name", "shape", "layout"), TINY, ids=str)
def test_the_projection_is_the_nearest_of_all_tensors_with_such_holes(
    name: str, shape: tuple[int, ...], layout: Layout
) -> None:
    block = pattern(name)
    for seed in range(3):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        projected = block.project(weight, layout=layout)
        best = _best_energy(weight, block.out, block.scope.n, block.scope.m, layout)
        assert float(projected.square().sum()) == pytest.approx(best, rel=1e-12)
        assert block.holds(projected, layout=layout)


def test_asp_chooses_the_best_of_the_six_patterns_of_2_of_4() -> None:
    weight = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    kept = pattern("2:4").project(weight).abs().sum(1)
    six = torch.stack([weight[:, list(pair)].abs().sum(1) for pair in combinations(range(4), 2)])
    assert len(six) == 6
    torch.testing.assert_close(kept, six.max(0).values)


def test_groups_of_a_convolution_run_along_input_channels_at_each_position() -> None:
    weight = torch.randn(3, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    by_position = weight.permute(2, 3, 0, 1).reshape(-1, 4)  # (R, S, K, C) in fours, as ASP reshapes it
    expected = pattern("2:4").project(by_position).view(3, 3, 3, 8).permute(2, 3, 0, 1)
    assert torch.equal(pattern("2:4").project(weight), expected)
    assert not torch.equal(pattern("2:4").project(weight.view(3, 72)).view_as(weight), expected), "not along memory"


@pytest.mark.parametrize(
    ("name", "channels", "kept"),
    [
        ("2:4", 4, 2),
        ("2:4", 5, 3),  # a last group of one keeps it
        ("2:4", 6, 4),  # and of two, both
        ("2:4", 7, 4),  # of three, two
        ("1:4", 6, 2),
        ("4:8", 11, 7),
        ("3:5", 7, 5),
    ],
)
def test_a_ragged_last_group_keeps_n_or_all_it_has_as_if_padded_with_zeros(name: str, channels: int, kept: int) -> None:
    weight = torch.randn(16, channels, generator=torch.Generator().manual_seed(channels))
    block = pattern(name)
    mask = block.mask(weight.square())
    assert mask.sum(1).tolist() == [kept] * 16
    padded = nn.functional.pad(weight, (0, -channels % block.scope.m))
    assert torch.equal(block.project(padded)[:, :channels], block.project(weight))
    assert block.holds(weight * mask)


def test_vectors_of_rows_live_or_die_together_two_of_four_neighbours() -> None:
    weight = torch.tensor(
        [
            [3.0, 0.0, 2.0, 2.0],
            [0.0, 4.0, 2.0, 2.0],  # energies of the vectors: 9, 16, 8, 8
            [1.0, 1.0, 9.0, 5.0],  # a last, shorter vector competes by itself
        ]
    )
    kept = [[3.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0], [0.0, 0.0, 9.0, 5.0]]
    assert pattern("2x1@2:4").project(weight).tolist() == kept


def test_the_published_search_is_reproduced_on_its_own_matrix() -> None:
    # The example of the released code: 128 filters, 64 channels, numpy's seed 1. Pairs of stripes, no escape.
    scores = torch.from_numpy(np.random.RandomState(1).rand(128, 64))
    found = search_permutation(scores, NOfM(2, 4), escapes=0)
    half = float(scores.topk(32, dim=1).values.sum())
    assert (round(found.before, 3), round(half, 3)) == (2852.377, 3042.332)
    assert found.after == pytest.approx(2919.759, abs=2e-3)
    assert 100 * (found.after - found.before) / (half - found.before) == pytest.approx(35.5, abs=0.05)


def _asp(steps: int = 4) -> tuple[nn.Linear, torch.optim.SGD, ASP]:
    layer = nn.Linear(8, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([ROW, ROW[::-1]]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    return layer, optimizer, ASP(layer, optimizer, Plan({"weight": ("2:4",)}), steps=steps)


def test_asp_prunes_before_the_first_step_and_moves_only_what_it_kept() -> None:
    layer, optimizer, pruner = _asp()
    assert torch.equal(layer.weight, torch.tensor([KEPT, KEPT[::-1]]))
    assert str(pruner.progress()) == "tune, step 0 of 4, density 0.500"
    # However much the loss wants other weights: masks are chosen once.
    layer.weight.grad = torch.full_like(layer.weight, -100.0)
    optimizer.step()
    torch.testing.assert_close(layer.weight, torch.tensor([KEPT, KEPT[::-1]]) + 10 * pruner.masks["weight"])
    assert not optimizer.state[layer.weight]["momentum_buffer"][~pruner.masks["weight"]].any()


def test_a_weight_that_training_made_small_keeps_its_place() -> None:
    layer, optimizer, pruner = _asp()
    layer.weight.grad = torch.tensor([KEPT, KEPT[::-1]]) * 10  # to exactly zero
    optimizer.step()
    assert layer.weight.abs().max() < 1e-6
    assert pruner.masks["weight"].sum(1).tolist() == [4, 4]
    assert pruner.finish().plan.ok


def test_asp_is_prune_and_hold() -> None:
    results = []
    for by_hand in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
        plan = Plan({"0.weight": ("2:4",), "2.weight": ("1:3",)})
        if by_hand:
            prune(model, plan)
            hold(model, optimizer)
        else:
            ASP(model, optimizer, plan, steps=5)
        for step in range(5):
            optimizer.zero_grad()
            x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
            model(x).square().mean().backward()
            optimizer.step()
        results.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
