"""NPAS against its papers: learning, kernel, process and acquisition worked by hand, and the invariants."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from monstera.search import Objective
from monstera.search.npas import LayerChoice, Scheme, SchemeSpace, Stage
from monstera.search.npas.gaussian_process import fit
from monstera.search.npas.q_learning import QLearning, epsilon
from monstera.search.npas.run import PENALTY
from monstera.search.npas.screening import expected_improvement
from monstera.search.npas.weisfeiler_lehman import LabelledGraph, kernels, subtree_counts


def _two_layers() -> SchemeSpace:
    return SchemeSpace([Stage(name, 8, 8, "1x1", patterns=["8x4"], densities=[0.5]) for name in "ab"])


def test_one_update_of_two_layers_is_the_equation_by_hand() -> None:
    # Each step gets 0.8 / 2 = 0.4. From the back: Q2 = 0.9 * 0.25 + 0.1 * 0.4 = 0.265, which is now the best of its row
    # (the others stay at 0.5 / 2). Q1 = 0.9 * 0.5 + 0.1 * (0.4 + 1 * 0.265) = 0.5165.
    agent = QLearning(_two_layers(), learning_rate=0.1, replay=1)
    agent.remember(Scheme((LayerChoice("1x1", "8x4", 0.5), LayerChoice("skip"))), 0.8)
    agent.learn(np.random.default_rng(0))
    assert agent.values(0, -1) == pytest.approx([0.5, 0.5165, 0.5])
    assert agent.values(1, 1) == pytest.approx([0.25, 0.25, 0.265])
    assert agent.values(1, 0) == [0.25] * 3


def test_a_second_update_goes_on_from_the_first() -> None:
    # Reward 0.2 for the same start and another end: Q2' = 0.9 * 0.25 + 0.1 * 0.1 = 0.235; the best of the row is still
    # 0.265; Q1 = 0.9 * 0.5165 + 0.1 * (0.1 + 0.265) = 0.50135.
    agent = QLearning(_two_layers(), learning_rate=0.1, replay=1)
    start = LayerChoice("1x1", "8x4", 0.5)
    agent._update(Scheme((start, LayerChoice("skip"))), 0.8)
    agent._update(Scheme((start, LayerChoice("1x1"))), 0.2)
    assert agent.values(1, 1) == pytest.approx([0.235, 0.25, 0.265])
    assert agent.values(0, -1) == pytest.approx([0.5, 0.50135, 0.5])


def test_the_numbers_are_those_of_metaqnn() -> None:
    agent = QLearning(_two_layers())
    assert (agent.learning_rate, agent.discount, agent.initial, agent.replay) == (0.01, 1.0, 0.5, 128)
    counts = Counter(epsilon(done, 2700) for done in range(2700))
    assert counts == {
        1.0: 1500,
        0.9: 100,
        0.8: 100,
        0.7: 100,
        0.6: 150,
        0.5: 150,
        0.4: 150,
        0.3: 150,
        0.2: 150,
        0.1: 150,
    }


def test_values_that_nothing_changes_any_more_are_the_reward_still_to_come() -> None:
    space = _two_layers()
    agent, scheme = QLearning(space, learning_rate=1.0), Scheme((LayerChoice("1x1"), LayerChoice("1x1")))
    agent.remember(scheme, 0.8)
    agent.learn(np.random.default_rng(0))
    assert agent.values(1, 0)[0] == pytest.approx(0.4)
    assert agent.values(0, -1)[0] == pytest.approx(0.8)


def test_the_reward_is_accuracy_less_what_is_late() -> None:
    # 0.2 for 20 ms over the budget: 0.01 a millisecond.
    objective = Objective(20.0, penalty=0.2, chance=0.1)
    assert objective.reward(0.75, 18.0) == 0.75
    assert objective.reward(0.75, 25.0) == pytest.approx(0.70)
    assert objective.reward(0.02, 20.0) == 0.1
    assert Objective(20.0, PENALTY, chance=0.1).reward(0.75, 40.0) == pytest.approx(0.65)


def test_the_kernel_of_two_small_graphs_by_hand() -> None:
    # G is a -> b -> b, F is a -> b <- a. Depth 0: G has one a and two b, F two a and one b: <G, F> = 1*2 + 2*1 = 4,
    # <G, G> = <F, F> = 5. Depth 1: G has a[], b[a], b[b], F has two a[] and b[a,a]: <G, F> = 2, <G, G> = 3, <F, F> = 5.
    # Depth 2: G has a[][], b[a][a[]], b[b][b[a]], F has two a[][] and b[a,a][a[],a[]]: 2, 3 and 5 again.
    g = subtree_counts(LabelledGraph(("a", "b", "b"), ((0, 1), (1, 2))), 2)
    f = subtree_counts(LabelledGraph(("a", "b", "a"), ((0, 1), (2, 1))), 2)
    assert [sorted(counts.values()) for counts in g] == [[1, 2], [1, 1, 1], [1, 1, 1]]
    assert [sorted(counts.values()) for counts in f] == [[1, 2], [1, 2], [1, 2]]
    one = kernels([g], [f], [1.0, 1.0, 1.0])[:, 0, 0]
    assert one == pytest.approx([4 / 5, 6 / math.sqrt(8 * 10), 8 / math.sqrt(11 * 15)])
    weighted = kernels([g], [f], [1.0, 0.5, 0.0])[:, 0, 0]
    assert weighted[1:] == pytest.approx([5 / math.sqrt(6.5 * 7.5)] * 2)


def test_the_process_on_points_that_have_nothing_in_common_by_hand() -> None:
    # A kernel of identity: what is like the first point by 0.6 is 0.6 / (1 + noise) of its standardised target.
    targets = torch.tensor([-1.0, 1.0] * 5, dtype=torch.float64)
    process = fit(torch.eye(10), targets, noise=0.01, steps=0)
    cross = torch.zeros(1, 10)
    cross[0, 0] = 0.6
    mean, variance = process.predict(cross, torch.ones(1))
    assert mean.item() == pytest.approx(-0.6 / 1.01)
    assert variance.item() == pytest.approx(1 - 0.36 / 1.01)
    assert process.log_likelihood == pytest.approx(-5 / 1.01 - 5 * math.log(1.01) - 5 * math.log(2 * math.pi))


def test_expected_improvement_by_hand() -> None:
    # Mean at the incumbent: sigma * phi(0). One deviation above: sigma * (Phi(1) + phi(1)) = 0.2 * 1.0833155.
    mean, variance = torch.tensor([0.5, 0.7], dtype=torch.float64), torch.tensor([0.04, 0.04], dtype=torch.float64)
    assert expected_improvement(mean, variance, 0.5).tolist() == pytest.approx([0.2 * 0.3989423, 0.2 * 1.0833155])
    with_margin = expected_improvement(mean[1:], variance[1:], 0.5, margin=0.2)
    assert with_margin.tolist() == pytest.approx([0.2 * 0.3989423])


# ---- invariants -----------------------------------------------------------------------------------------------------


def test_a_layer_has_a_type_a_pattern_and_a_rate_of_three_patterns_and_seven_rates() -> None:
    actions = Stage("a", 32, 32, "3x3").actions
    dense = [choice for choice in actions if choice.filter == "3x3"]
    assert {choice.pattern for choice in dense} == {None, "filter", "patterns4of8", "8x4"}
    assert sorted({round(1 / choice.density, 6) for choice in dense}) == [1, 2, 2.5, 3, 5, 7, 10]
    assert {choice.filter for choice in actions} == {"1x1", "3x3", "3x3dw+1x1", "1x1+3x3dw+1x1", "skip"}


def test_skip_and_rate_1_alias_nothing() -> None:
    raw = [
        (kind, pattern, density) for kind in ("1x1", "skip") for pattern in ("filter", "8x4") for density in (1, 0.5)
    ]
    assert len({LayerChoice(*choice) for choice in raw}) == 4
    assert len({Scheme((LayerChoice(*choice),)).digest for choice in raw}) == 4
