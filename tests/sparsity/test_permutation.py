"""Orders of channels: against every order of tiny matrices, never worse, the same for a seed, and folded by hand."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from monstera.sparsity import (
    Layout,
    NOfM,
    PatternError,
    find_permutation,
    pattern,
    search_permutation,
)


def _scores(rows: int, channels: int, seed: int) -> Tensor:
    return torch.rand(rows, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _kept(scores: Tensor, scope: NOfM) -> float:
    """The N largest of every M, in each row, by sorting."""
    return sum(
        sum(sorted(run, reverse=True)[: scope.n])
        for row in scores.tolist()
        for run in (row[start : start + scope.m] for start in range(0, len(row), scope.m))
    )


def _best(scores: Tensor, scope: NOfM) -> float:
    """Over every way to cut the columns in stripes of M and what is left over."""
    sums = {}

    def stripe(columns: tuple[int, ...]) -> float:
        if columns not in sums:
            sums[columns] = _kept(scores[:, list(columns)], scope)
        return sums[columns]

    def of(left: tuple[int, ...]) -> float:
        if len(left) <= scope.m:
            return stripe(left)
        others = left[1:]
        found = [
            stripe((left[0], *more)) + of(tuple(c for c in others if c not in more))
            for more in combinations(others, scope.m - 1)
        ]
        if rest := len(left) % scope.m:  # or the first column is in the shorter stripe, which comes last
            for more in combinations(others, rest - 1):
                short = stripe((left[0], *more))
                whole = scores[:, [c for c in others if c not in more]]
                found.append(short + _best(whole, scope))
        return max(found)

    return of(tuple(range(scores.shape[1])))


@pytest.mark.parametrize(
    ("n", "m", "channels"),
    [(2, 4, 8), (1, 4, 8), (2, 4, 7), (2, 4, 5), (1, 2, 4), (1, 3, 6), (2, 5, 10)],
)
def test_two_stripes_come_to_the_optimum_without_any_escape(n: int, m: int, channels: int) -> None:
    scope = NOfM(n, m)
    for seed in range(10):
        scores = _scores(3, channels, seed)
        found = search_permutation(scores, scope, escapes=0)
        assert found.after == pytest.approx(_best(scores, scope), rel=1e-12)


@pytest.mark.parametrize(("n", "m", "channels"), [(1, 2, 8), (2, 4, 10), (1, 3, 9), (1, 3, 8), (2, 3, 7)])
def test_tiny_matrices_of_more_stripes_come_to_the_optimum_of_all_orders(n: int, m: int, channels: int) -> None:
    scope = NOfM(n, m)
    for seed in range(4):
        scores = _scores(3, channels, seed)
        assert search_permutation(scores, scope).after == pytest.approx(_best(scores, scope), rel=1e-12)


@settings(max_examples=60)
@given(
    st.sampled_from([NOfM(1, 2), NOfM(2, 4), NOfM(1, 4), NOfM(2, 3), NOfM(4, 8)]),
    st.integers(1, 5),
    st.integers(1, 21),
    st.integers(0, 2**20),
    st.booleans(),
)
def test_an_order_is_a_permutation_and_keeps_what_it_says_and_no_less(
    scope: NOfM, rows: int, channels: int, seed: int, ties: bool
) -> None:
    scores = _scores(rows, channels, seed)
    scores = (scores * 4).round() if ties else scores
    found = search_permutation(scores, scope, escapes=3)
    assert sorted(found.order.tolist()) == list(range(channels))
    assert found.before == pytest.approx(_kept(scores, scope))
    assert found.after == pytest.approx(_kept(scores[:, found.order], scope))
    assert found.after >= found.before
    if found.after == found.before:
        assert found.order.tolist() == list(range(channels))


def test_the_same_seed_gives_the_same_order_and_escapes_are_never_worse_than_none() -> None:
    scores = _scores(16, 40, 0)
    first, again = (search_permutation(scores, NOfM(2, 4), seed=3, escapes=20) for _ in range(2))
    assert torch.equal(first.order, again.order)
    assert first.after > search_permutation(scores, NOfM(2, 4), escapes=0).after


def test_columns_that_fight_for_the_same_places_are_parted() -> None:
    # The first four columns are large and the last four small: half of what is large dies where it lies.
    scores = torch.tensor([[4.0, 4, 4, 4, 1, 1, 1, 1]] * 3)
    found = search_permutation(scores, NOfM(2, 4))
    assert (found.before, found.after) == (3 * 10, 3 * 16)


def test_an_order_that_is_best_already_stays_as_it_is() -> None:
    scores = torch.tensor([[4.0, 4, 1, 1, 4, 4, 1, 1]])
    assert search_permutation(scores, NOfM(2, 4)).order.tolist() == list(range(8))


def test_weights_that_share_their_channels_are_searched_together() -> None:
    one, other = torch.randn(6, 8), torch.randn(4, 8, 3, 3)
    found = find_permutation([one, other], "2:4")
    magnitudes = torch.cat([one.abs(), other.abs().permute(2, 3, 0, 1).reshape(-1, 8)]).double()
    assert found.before == pytest.approx(_kept(magnitudes, NOfM(2, 4)))
    kept = sum(float(pattern("2:4").project(w[:, found.order]).abs().double().sum()) for w in (one, other))
    assert found.after == pytest.approx(kept, rel=1e-6)
    assert found.after == pytest.approx(_best(magnitudes, NOfM(2, 4)), rel=1e-12)


def test_vectors_are_ranked_by_their_norms_and_gates_are_rows_like_others() -> None:
    weight = torch.randn(10, 8)  # two parts of five rows: vectors of four and one
    found = find_permutation([weight], "4x1@1:4", [Layout(parts=2)])
    ends = [(0, 4), (4, 5), (5, 9), (9, 10)]
    norms = torch.stack([weight[start:end].double().norm(dim=0) for start, end in ends])
    assert found.before == pytest.approx(_kept(norms, NOfM(1, 4)))
    assert found.after == pytest.approx(_best(norms, NOfM(1, 4)))


def test_a_weight_that_holds_in_first_is_searched_like_its_transpose() -> None:
    weight = torch.randn(12, 6)
    one = find_permutation([weight], "2:4", [Layout(transposed=True)])
    assert torch.equal(one.order, find_permutation([weight.T], "2:4").order)


def test_a_network_with_folded_orders_computes_the_same_and_keeps_more() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)).double().eval()
    nn.init.normal_(model[1].weight)
    model[1].running_mean.normal_()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    before = model(x)
    order = find_permutation([model[3].weight], "2:4").order
    was = pattern("2:4").project(model[3].weight).abs().sum()
    with torch.no_grad():
        model[3].weight.copy_(model[3].weight[:, order])
        for tensor in (model[0].weight, model[0].bias, *model[1].parameters(), *model[1].buffers()):
            if tensor.dim():
                tensor.copy_(tensor[order])
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)
    assert pattern("2:4").project(model[3].weight).abs().sum() > was


@pytest.mark.parametrize("scores", [torch.zeros(3), torch.zeros(0, 4), torch.tensor([[1.0, float("nan")]])])
def test_scores_that_are_none_are_refused(scores: Tensor) -> None:
    with pytest.raises(PatternError, match=r"finite scores \[rows, channels\]"):
        search_permutation(scores, NOfM(1, 2))


def test_what_has_no_order_is_refused() -> None:
    with pytest.raises(PatternError, match=r"one channel wide.*got 4x1"):
        find_permutation([torch.ones(8, 8)], "4x1")
    with pytest.raises(PatternError, match=r"one channel wide.*got 1x2@2:4"):
        find_permutation([torch.ones(8, 8)], "1x2@2:4")
    with pytest.raises(PatternError, match=r"the same channels, got \[4, 8\]"):
        find_permutation([torch.ones(8, 8), torch.ones(8, 4)], "2:4")
    with pytest.raises(PatternError, match="2 convolution groups"):
        find_permutation([torch.ones(8, 8, 1, 1)], "2:4", [Layout(groups=2)])
