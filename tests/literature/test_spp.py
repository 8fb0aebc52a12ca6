"""SPP against its paper: the table of Delta by hand, chances and masks, deaths, and the exact rate at the end."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from monstera.pruning import SPP
from monstera.pruning.pruning_probability import drawn, rank_delta, ranked, settled, updated
from monstera.sparsity import Plan, kept_groups

A, U = 0.05, 0.25
# R N_c = 12, so that alpha = ln(8) / 12 and the curve is 0.05 * 8^(-r/12) up to rank 8, where 8^(-2/3) = 1/4.
TABLE = {0: 0.05, 4: 0.025, 8: 0.0125, 12: 0.0, 16: -0.025, 20: -0.075, 24: -0.175, 28: -0.375}


def _delta(ranks: list[int], to_prune: int, increment: float = A, centre: float = U) -> list[float]:
    return rank_delta(torch.tensor(ranks), to_prune, increment, centre).tolist()


def test_the_table_of_delta_is_the_papers_by_hand() -> None:
    assert _delta(list(TABLE), 12) == pytest.approx(list(TABLE.values()), abs=1e-15)


def test_delta_of_three_groups_to_go_is_halved_by_every_rank() -> None:
    # alpha = ln(8) / 3 = ln(2), symmetric about rank 2: 1, 1/2 | 1/4, then 1/2 - 2^(r - 4).
    assert _delta([0, 1, 2, 3, 4, 5, 6], 3, increment=1.0) == pytest.approx([1, 0.5, 0.25, 0, -0.5, -1.5, -3.5])


@given(st.integers(1, 3000), st.floats(0.01, 0.99), st.floats(0.001, 1))
def test_delta_starts_at_a_falls_and_is_exactly_zero_at_what_is_to_prune(n: int, u: float, a: float) -> None:
    delta = rank_delta(torch.arange(3 * n), n, a, u)
    assert float(delta[0]) == a
    assert float(delta[n]) == 0
    assert bool((delta[:n] > 0).all())
    assert bool((delta[n + 1 :] < 0).all())
    assert bool((delta.diff() < 0).all())


@given(st.integers(1, 200), st.floats(0.05, 0.9), st.floats(0, 1))
def test_delta_is_symmetric_about_its_centre(n: int, u: float, way: float) -> None:
    # At any real rank, as whole ones seldom lie opposite each other.
    centre = n * math.log(1 / u) / math.log(2 / u)
    pair = torch.tensor([centre * (1 - way), centre, centre * (1 + way)], dtype=torch.float64)
    before, middle, after = rank_delta(pair, n, A, u).tolist()
    assert middle == pytest.approx(u * A)
    if centre * (1 + way) != n:
        assert before + after == pytest.approx(2 * u * A)


def test_delta_of_ranks_far_beyond_is_a_finite_number() -> None:
    (delta,) = _delta([10**6], 1)
    assert math.isfinite(delta)
    assert delta < -1


def test_ranks_count_from_the_least_and_the_first_of_equals_ranks_higher() -> None:
    assert ranked(torch.tensor([3.0, 1.0, 2.0, 1.0])).tolist() == [3, 1, 2, 0]


def test_two_updates_by_hand() -> None:
    norms = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0], dtype=torch.float64)
    # Three of five to go, A = 0.6: ranks 4 0 3 1 2 get -0.3, 0.6, 0, 0.3, 0.15.
    first = updated(torch.zeros(5, dtype=torch.float64), norms, 3, 0.6, U)
    assert first.tolist() == pytest.approx([0, 0.6, 0, 0.3, 0.15])
    # The least dies; ranks and what is to go are of the living from then on.
    second = updated(first, norms, 3, 0.6, U)
    assert second.tolist() == pytest.approx([0, 1, 0, 0.6, 0.3])
    # Two to go, alpha = ln(8) / 2: ranks 3 - 2 0 1 of four; 0.6 * 8^(-1/2) at rank 1.
    third = updated(second, norms, 3, 0.6, U)
    assert third.tolist() == pytest.approx([0, 1, 0, 1, 0.3 + 0.6 / math.sqrt(8)])


def test_the_lowest_rank_needs_one_update_for_each_a() -> None:
    for a, updates in ((0.05, 20), (0.1, 10), (0.3, 4), (1.0, 1)):
        p, norms = torch.zeros(6, dtype=torch.float64), torch.arange(6.0)
        for update in range(1, updates + 1):
            p = updated(p, norms, 3, a, U)
            assert bool(p[0] == 1) == (update == updates)


def test_two_hundred_updates_are_enough_for_two_thousand_groups_whose_ranks_hold_still() -> None:
    p, norms = torch.zeros(2304, dtype=torch.float64), torch.arange(2304.0)
    dead = []
    for _ in range(200):
        p = updated(p, norms, 1728, A, U)
        dead.append(int((p == 1).sum()))
    assert dead[18] == 0
    assert dead[-1] == 1728
    assert p.tolist() == [1] * 1728 + [0] * 576


def test_a_group_that_becomes_strong_is_forgiven() -> None:
    p, norms = torch.zeros(4, dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0, 4.0])
    for _ in range(15):
        p = updated(p, norms, 1, A, U)
    assert float(p[0]) == pytest.approx(0.75)
    for _ in range(3):
        p = updated(p, norms.flip(0), 1, A, U)
    assert float(p[0]) == 0


@given(st.data(), st.integers(2, 40))
def test_however_ranks_move_no_more_die_than_are_to_and_the_dead_stay_dead(data: st.DataObject, groups: int) -> None:
    to_prune = data.draw(st.integers(0, groups - 1))
    a = data.draw(st.sampled_from([0.05, 0.3, 1.0]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    p = torch.zeros(groups, dtype=torch.float64)
    for _ in range(30):
        after = updated(p, torch.rand(groups, generator=generator), to_prune, a, U)
        dead = p == 1
        assert bool((after[dead] == 1).all())
        assert int((after == 1).sum()) <= to_prune
        assert int((after == 1).sum()) < to_prune or not after[after < 1].any()
        p = after
    assert int((settled(p, torch.rand(groups, generator=generator), to_prune) == 1).sum()) == to_prune


def test_masks_keep_a_group_as_often_as_its_probability_says_and_never_a_dead_one() -> None:
    p = torch.tensor([0.0, 0.1, 0.5, 0.95, 1.0], dtype=torch.float64)
    masks = torch.stack([drawn(p, seed=1, step=step, name="w") for step in range(4000)]).double()
    kept = masks.mean(0)
    assert kept[0] == 1
    assert kept[4] == 0
    # Five standard deviations.
    assert bool(((kept - (1 - p)).abs() <= 5 * (p * (1 - p) / 4000).sqrt()).all())


def test_the_expected_output_of_a_layer_is_that_of_weights_scaled_by_what_is_kept() -> None:
    """E[sum of w g x] over all 2^4 masks, each by its chance, is sum of w (1 - p) x."""
    p = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    weight, x = torch.tensor([1.0, -2.0, 3.0, 4.0]).double(), torch.tensor([2.0, 1.0, -1.0, 3.0]).double()
    masks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4)
    chances = torch.where(masks == 1, 1 - p, p).prod(1)
    outputs = (masks * weight) @ x
    expected = float(chances @ outputs)
    assert expected == pytest.approx(float((weight * (1 - p)) @ x)) == pytest.approx(2 - 1.5 - 1.5)
    ours = [float((drawn(p, 0, step, "w") * weight) @ x) for step in range(4000)]
    error = math.sqrt(float(chances @ (outputs - expected).square()) / 4000)
    assert abs(sum(ours) / 4000 - expected) < 5 * error


@pytest.mark.parametrize("density", [0.5, 0.3, 1 / 16])
def test_a_column_of_the_matrix_product_is_a_group_and_the_rate_is_exact_at_the_end(density: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    plan = Plan({"0.weight": ("column", density)})
    pruner = SPP(model, optimizer, plan, steps=400, update_every=1, harden_at=0.9)
    for _ in range(400):
        optimizer.zero_grad()
        model(torch.randn(1, 3, 5, 5)).square().mean().backward()
        optimizer.step()
    alive = model[0].weight.detach().view(5, 27).ne(0)
    assert bool((alive.any(0) == alive.all(0)).all())
    assert int(alive.any(0).sum()) == kept_groups(density, 27)
    assert pruner.finish().plan.ok
