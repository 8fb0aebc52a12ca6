"""Unified blocks: the nearest weight under both budgets, against every assignment there is; budgets; names; storage."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monstera.sparsity import ALL, Block, Layout, PatternError, Unify, kept_groups, pattern
from monstera.sparsity.assignment import kept_and_free
from monstera.sparsity.storage import UnifiedBlocks
from sparsity.drawing import weights

EXTENTS = st.one_of(st.integers(1, 4), st.just(ALL))
PATTERNS = st.builds(
    Unify, EXTENTS, st.one_of(st.integers(2, 4), st.just(ALL)), EXTENTS, st.sampled_from([1.0, 0.9, 0.5, 0.3])
)


def assignments(blocks: int, kept: int, free: int) -> Iterator[tuple[int, ...]]:
    """Every way to prune (0), tie (1) or free (2) each block within both budgets."""
    for kinds in product(range(3), repeat=blocks):
        if blocks - kinds.count(0) <= kept and kinds.count(2) <= free:
            yield kinds


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=6),
    st.integers(1, 6),
    st.integers(0, 6),
)
def test_no_assignment_under_both_budgets_saves_more(blocks: list[tuple[int, int]], kept: int, free: int) -> None:
    tied, gain = (torch.tensor(side, dtype=torch.float64) for side in zip(*blocks, strict=True))
    kept = min(kept, len(blocks))
    living, chosen = kept_and_free(tied + gain, tied, kept, free)
    assert int(living.sum()) == kept
    assert int(chosen.sum()) == min(free, kept)
    assert not (chosen & ~living).any()
    best = max(
        sum((0, t, t + g)[kind] for kind, (t, g) in zip(kinds, blocks, strict=True))
        for kinds in assignments(len(blocks), kept, free)
    )
    assert float((tied * living + gain * chosen).sum()) == best


def test_ranking_by_pruning_first_is_worse_than_choosing_together() -> None:
    # By pruning cost alone (9 > 8 > 7.5) the last block dies. But tied it would cost nothing, and the second one much.
    own, tied = torch.tensor([9.0, 8.0, 7.5]).double(), torch.tensor([1.0, 2.0, 7.5]).double()
    living, free = kept_and_free(own, tied, 2, 1)
    assert (living.tolist(), free.tolist()) == ([True, False, True], [True, False, False])


@given(st.integers(0, 2**20), st.integers(2, 400))
@settings(max_examples=40)
def test_of_many_blocks_no_move_of_one_or_exchange_of_two_gains(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 9, (2, count), generator=generator).double()
    tied, own = values[0], values.sum(0)
    kept = int(torch.randint(1, count + 1, (), generator=generator))
    free = int(torch.randint(0, kept + 1, (), generator=generator))
    living, chosen = kept_and_free(own, tied, kept, free)
    assert (int(living.sum()), int(chosen.sum())) == (kept, free)
    saved = {0: torch.zeros(count).double(), 1: tied, 2: own}
    kinds = living.int() + chosen.int()
    # Changing places around any cycle of classes keeps both budgets; none may gain.
    step = {
        (a, b): float((saved[b] - saved[a])[kinds == a].max()) if (kinds == a).any() else -torch.inf
        for a, b in product(range(3), repeat=2)
        if a != b
    }
    assert all(step[a, b] + step[b, a] <= 1e-12 for a, b in [(0, 1), (0, 2), (1, 2)])
    assert step[0, 1] + step[1, 2] + step[2, 0] <= 1e-12
    assert step[0, 2] + step[2, 1] + step[1, 0] <= 1e-12


SMALL = st.sampled_from([(2, 2), (2, 4), (4, 2), (3, 3), (2, 2, 2), (5, 2), (4, 3)])
SMALL_PATTERNS = st.builds(Unify, st.integers(1, 2), st.just(2), st.integers(1, 2), st.sampled_from([1.0, 0.7, 0.4]))


@settings(max_examples=40)
@given(SMALL_PATTERNS, weights(SMALL), st.floats(0.1, 1))
def test_no_weight_that_obeys_is_nearer_than_the_projection(unify: Unify, weight: Tensor, density: float) -> None:
    weight = weight.double()
    groups = unify.block.groups(weight)
    blocks = int(groups.max()) + 1
    free = blocks - kept_groups(unify.unified, blocks)
    least = np.inf
    for kinds in assignments(blocks, kept_groups(density, blocks), free):
        distance = 0.0
        for number, kind in enumerate(kinds):
            members = weight[groups == number]
            # A tied block has the mean magnitude: no other value is nearer.
            nearest = members.abs().mean() * torch.where(members < 0, -1.0, 1.0)
            distance += float((members - [0, nearest, members][kind]).square().sum())
        least = min(least, distance)
    projected = unify.project(weight, density)
    assert float((weight - projected).square().sum()) == pytest.approx(least, abs=1e-12)


@given(PATTERNS, weights(), st.floats(0.01, 1))
def test_a_projection_obeys_its_pattern_keeps_both_budgets_and_is_idempotent(
    unify: Unify, weight: Tensor, density: float
) -> None:
    projected = unify.project(weight, density)
    assert (projected.shape, projected.dtype) == (weight.shape, weight.dtype)
    assert unify.holds(projected, density)
    assert torch.equal(unify.project(projected, density), projected)
    blocks = unify.block.count(weight.shape)
    mask = unify.mask(weight.double().square(), density)
    assert int(unify.alive(mask).sum()) == kept_groups(density, blocks)
    magnitudes = projected.abs()
    mixed = [
        number
        for number, members in ((n, magnitudes[unify.block.groups(weight) == n]) for n in range(blocks))
        if members.unique().numel() > 1
    ]
    assert len(mixed) <= blocks - kept_groups(unify.unified, blocks)
    # Signs are those that were there.
    assert not ((projected * weight.sign()) < 0).any()


@given(PATTERNS, weights(), st.floats(0.01, 1))
def test_ties_of_a_projection_are_its_own(unify: Unify, weight: Tensor, density: float) -> None:
    mask = unify.mask(weight.double().square(), density)
    ties = unify.ties(weight, mask)
    projected = unify.project(weight, density)
    assert torch.equal(ties.nearest(projected), projected)
    assert torch.equal(ties.factor != 0, mask)
    assert torch.equal(ties.nearest(weight), projected)


@given(st.integers(0, 2**20), st.sampled_from([1.0, 0.8]), st.floats(0.3, 1))
def test_moving_whole_blocks_moves_their_projection(seed: int, unified: float, density: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 8, generator=generator)
    columns, rows = torch.randperm(8, generator=generator), torch.randperm(3, generator=generator)
    unify = Unify(2, 1, unified=unified)

    def moved(w: Tensor) -> Tensor:
        return w.unflatten(0, (3, 2))[rows].flatten(0, 1)[:, columns]

    assert torch.equal(unify.project(moved(weight), density), moved(unify.project(weight, density)))


@pytest.mark.parametrize("layout", [Layout(parts=3), Layout(groups=2), Layout(transposed=True)])
def test_blocks_lie_inside_parts_and_groups(layout: Layout) -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    unify = Unify(4, 1)
    projected = unify.project(weight, 0.5, layout)
    assert unify.holds(projected, 0.5, layout)
    canonical = layout.to_canonical(projected).abs()
    for run in canonical.split(4, dim=1):
        assert bool((run == run[:, :1]).all())


def test_a_sign_of_zero_is_plus() -> None:
    assert Unify(1, 4).project(torch.tensor([[0.0, -2.0, -0.0, 2.0]]), 1.0).tolist() == [[1.0, -1.0, 1.0, 1.0]]


def test_a_block_that_breaks_its_tie_by_one_bit_is_found() -> None:
    weight = Unify(2, 2).project(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)), 1.0)
    assert Unify(2, 2).holds(weight, 1.0)
    weight[3, 3] = torch.nextafter(weight[3, 3], torch.tensor(9.0))
    assert not Unify(2, 2).holds(weight, 1.0)
    assert Unify(2, 2, unified=0.75).holds(weight, 1.0), "one of four blocks may be mixed"


@pytest.mark.parametrize(
    ("name", "unify"),
    [
        ("unify4x1", Unify(4, 1)),
        ("unify2x2xall", Unify(2, 2, ALL)),
        ("unify1x8u0.9", Unify(1, 8, unified=0.9)),
        ("unify4x4x1u0.25", Unify(4, 4, 1, 0.25)),
    ],
)
def test_short_names_are_read_back(name: str, unify: Unify) -> None:
    assert pattern(name) == unify
    assert pattern(unify.name) == unify
    assert "magnitude" in unify.describe()


@given(PATTERNS)
def test_a_name_stands_for_exactly_one_pattern(unify: Unify) -> None:
    assert pattern(unify.name) == unify
    assert pickle.loads(pickle.dumps(unify)) == copy.deepcopy(unify) == unify


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Unify(1, 1), "one weight"),
        (lambda: Unify(4, 1, unified=0.0), "in \\(0, 1\\]"),
        (lambda: Unify(0, 1), "whole number"),
        (lambda: pattern("unify4"), "unify4x1"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        make()


def test_budgets_that_leave_nothing_to_unify_are_refused_with_both_numbers() -> None:
    reason = Unify(4, 1, unified=0.5).refusal(0.5, (8, 10))
    assert "leaves 10 of 20 blocks as they are and density 0.5 keeps 10" in reason
    assert Unify(4, 1, unified=0.75).feasible(0.5, (8, 10))
    assert "shrinks to single weights" in Unify(1, 3).refusal(0.5, (8, 1))


def test_a_nan_is_refused() -> None:
    with pytest.raises(PatternError, match="NaN"):
        Unify(2, 1).project(torch.tensor([[1.0], [torch.nan]]), 0.5)


@pytest.mark.parametrize("shape", [(16, 12), (8, 6, 3, 3), (7, 5)])
@pytest.mark.parametrize("unified", [1.0, 0.8])
def test_the_storage_form_holds_what_the_pattern_makes_in_the_bytes_that_it_promises(
    shape: tuple[int, ...], unified: float
) -> None:
    unify = Unify(4, 2, unified=unified)
    weight = unify.project(torch.randn(shape, generator=torch.Generator().manual_seed(3)), 0.4)
    form = UnifiedBlocks.encode(weight.numpy(), (4, 2, 1))
    assert form.decode().tobytes() == weight.numpy().tobytes()
    blocks = unify.block.count(shape)
    kept, free = kept_groups(0.4, blocks), blocks - kept_groups(unified, blocks)
    alive = unify.alive(weight)
    assert int(alive.sum()) == kept
    sizes = unify.block.group_scores(torch.ones(shape))
    mixed = unify.block.group_scores((weight.abs() - _means(unify, weight)).abs()) > 0
    signs, plain = int(sizes[alive & ~mixed].sum()), int(sizes[mixed].sum())
    assert int(mixed.sum()) == free
    # A bit a block, a bit a living block, 4 bytes a magnitude, a bit a unified weight, 4 bytes any other.
    expected = -(-blocks // 8) + -(-kept // 8) + 4 * (kept - free) + -(-signs // 8) + 4 * plain
    assert form.nbytes == expected


def _means(unify: Unify, weight: Tensor) -> Tensor:
    first = unify.block.group_scores(weight.abs().double()) / unify.block.group_scores(torch.ones_like(weight).double())
    return unify.block.expand(first, weight.shape).float()


def test_masks_of_a_plain_block_and_of_a_fully_unified_one_differ_where_magnitudes_do() -> None:
    weight = torch.tensor([[6.0, 3.5], [0.0, -4.5]])
    assert Block(2, 1).project(weight, 0.5).tolist() == [[6.0, 0.0], [0.0, 0.0]]
    assert Unify(2, 1).project(weight, 0.5).tolist() == [[0.0, 4.0], [0.0, -4.0]]
