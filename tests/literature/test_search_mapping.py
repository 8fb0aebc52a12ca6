"""Search-based mapping by its own rules: Y. Gong et al., arXiv 2111.11581; the reward of NPAS, arXiv 2012.00596."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from monstera.search.objective import Objective
from monstera.search.space import Space
from search.affine import Affine

UNIT = st.floats(0, 1)
MS = st.floats(0.01, 100)


def test_reward_worked_by_hand():
    """V = 0.75, t = 7.5 ms, T = 6 ms, alpha = 0.1 / T: r = 0.75 - 0.1 / 6 * 1.5 = 0.725."""
    asked = Objective(6.0, penalty=0.1)
    assert asked.alpha == pytest.approx(1 / 60)
    assert asked.reward(0.75, 7.5) == pytest.approx(0.725)
    assert asked.reward(0.75, 6.0) == asked.reward(0.75, 3.0) == 0.75


def test_twice_the_budget_costs_the_penalty():
    assert Objective(3.0, penalty=0.4).reward(0.9, 6.0) == pytest.approx(0.5)


@given(UNIT, MS, MS)
def test_within_the_budget_time_does_not_matter_and_beyond_it_more_time_is_never_better(accuracy, one, other):
    asked, (less, more) = Objective(5.0), sorted((one, other))
    assert asked.reward(accuracy, more) <= asked.reward(accuracy, less) <= accuracy
    assert not asked.feasible(less) or asked.reward(accuracy, less) == pytest.approx(accuracy)


@given(UNIT, UNIT, MS)
def test_networks_that_do_no_better_than_chance_are_alike(one, other, ms):
    asked = Objective(5.0, chance=0.1)
    if max(one, other) <= 0.1:
        assert asked.reward(one, ms) == asked.reward(other, ms)


def test_depthwise_layers_are_kept_dense_and_kernel_patterns_are_for_3x3_only():
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 5),
        nn.Conv2d(8, 8, 7),
    )
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *layers)
    space = Space.of(model, Affine.of(model), ("4x1", "patterns4of8"), (0.25,))
    assert space.weights == ("2.weight", "3.weight", "4.weight", "5.weight")
    both = [name for name, labels in space.choices.items() if "patterns4of8 at density 0.25" in labels]
    assert both == ["3.weight"]


@pytest.mark.parametrize("wrong", [{"budget": 0.0}, {"budget": 1.0, "penalty": -1.0}, {"budget": 1.0, "chance": 1.0}])
def test_objectives_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Objective(**wrong)
