from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monstera.sparsity import PatternError, kept_groups
from monstera.sparsity.selection import top, top_n_of_m


@given(st.integers(1, 10**7).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_a_density_that_is_a_fraction_of_groups_keeps_exactly_that_many(kept_of: tuple[int, int]) -> None:
    kept, groups = kept_of
    assert kept_groups(kept / groups, groups) == kept


@pytest.mark.parametrize(
    ("density", "groups", "kept"),
    [
        (0.55, 100, 55),
        (0.14, 50, 7),
        (0.07, 100, 7),
        (0.25, 10, 3),
        (0.001, 10, 1),
        (1, 7, 7),
        (0.7, 10, 7),
        (0.301, 10, 4),
    ],
)
def test_the_number_of_groups_is_rounded_up_but_not_by_float_error(density: float, groups: int, kept: int) -> None:
    assert kept_groups(density, groups) == kept


@pytest.mark.parametrize("density", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_a_density_outside_0_to_1_is_refused(density: float) -> None:
    with pytest.raises(PatternError, match="kept fraction"):
        kept_groups(density, 10)


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=40), st.data())
def test_top_agrees_with_a_stable_sort(scores: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    winners = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
    assert top(torch.tensor(scores, dtype=torch.float64), k).nonzero().flatten().tolist() == sorted(winners)


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=13), st.integers(2, 5), st.data())
def test_n_of_m_agrees_with_a_stable_sort_of_every_run(scores: list[int], m: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, m - 1))
    expected = [False] * len(scores)
    for start in range(0, len(scores), m):
        run = range(start, min(start + m, len(scores)))
        for i in sorted(run, key=lambda i: (-scores[i], i))[:n]:
            expected[i] = True
    kept = top_n_of_m(torch.tensor(scores, dtype=torch.float64).view(1, 1, -1, 1), n, m)
    assert kept.flatten().tolist() == expected


def test_infinite_scores_of_either_sign_are_ranked_like_any_other() -> None:
    inf = float("inf")
    assert top(torch.tensor([-inf, 0.0, inf]), 2).tolist() == [False, True, True]
    kept = top_n_of_m(torch.tensor([-inf, -inf, -inf]).view(1, 1, 3, 1), 1, 2)
    assert kept.flatten().tolist() == [True, False, True]


def test_a_nan_score_is_refused() -> None:
    with pytest.raises(PatternError, match="1 of 2 groups have a NaN"):
        top(torch.tensor([float("nan"), 1.0]), 1)
