"""The Gaussian process against closed forms and scikit-learn, expected improvement against draws, and what is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monstera.search.npas import SchemeSpace, Stage
from monstera.search.npas.gaussian_process import LEAST_POINTS, NOISE_RANGE, fit, fit_best
from monstera.search.npas.screening import DEPTH, WEIGHTS, expected_improvement, screen
from monstera.search.npas.weisfeiler_lehman import LabelledGraph, kernels, scheme_graph, subtree_counts
from search.npas_landscape import SPACE, reward


def _case(seed: int, seen: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features of unit length, so that their products are a kernel with 1 on its diagonal."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(seen + new, 6))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    targets = 3 + 2 * features[:seen] @ rng.normal(size=6) + 0.05 * rng.normal(size=seen)
    return features[:seen], features[seen:], targets, features


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(LEAST_POINTS, 30), st.integers(1, 7))
def test_the_posterior_is_the_closed_form(seed: int, seen: int, new: int) -> None:
    old, other, targets, _ = _case(seed, seen, new)
    process = fit(torch.from_numpy(old @ old.T), torch.from_numpy(targets))
    mean, variance = process.predict(torch.from_numpy(other @ old.T), torch.ones(new))
    standard, scale = (targets - targets.mean()) / targets.std(), targets.std()
    inverse = np.linalg.inv(old @ old.T + process.noise * np.eye(seen))
    cross = other @ old.T
    assert mean.numpy() == pytest.approx(cross @ inverse @ standard * scale + targets.mean(), rel=1e-6, abs=1e-6)
    wanted = (1 - np.einsum("ij,jk,ik->i", cross, inverse, cross)) * scale**2
    assert variance.numpy() == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_the_process_is_that_of_scikit_learn() -> None:
    process_module = pytest.importorskip("sklearn.gaussian_process")
    old, other, targets, _ = _case(0, 17, 5)
    ours = fit(torch.from_numpy(old @ old.T), torch.from_numpy(targets), noise=2e-3, steps=0)
    kernel = process_module.kernels.DotProduct(sigma_0=0, sigma_0_bounds="fixed")
    theirs = process_module.GaussianProcessRegressor(kernel, alpha=2e-3, normalize_y=True, optimizer=None)
    theirs.fit(old, targets)
    mean, deviation = theirs.predict(other, return_std=True)
    our_mean, our_variance = ours.predict(torch.from_numpy(other @ old.T), torch.ones(5))
    assert our_mean.numpy() == pytest.approx(mean, rel=1e-8)
    assert our_variance.sqrt().numpy() == pytest.approx(deviation, rel=1e-6)
    assert ours.log_likelihood == pytest.approx(theirs.log_marginal_likelihood_value_, rel=1e-8)


def test_noise_is_learnt_within_its_range() -> None:
    old, _, targets, _ = _case(1, 25, 1)
    kernel = torch.from_numpy(old @ old.T)
    noisy = torch.from_numpy(targets + np.random.default_rng(0).normal(size=25))
    start, clean, dirty = (
        fit(kernel, y, steps=s) for y, s in ((noisy, 0), (torch.from_numpy(targets), 20), (noisy, 20))
    )
    assert dirty.noise > clean.noise
    assert dirty.log_likelihood > start.log_likelihood
    assert NOISE_RANGE[0] <= fit(kernel, noisy, steps=500).noise <= NOISE_RANGE[1] * (1 + 1e-9)
    # Targets of mean 0 that the kernel explains wholly.
    both = np.concatenate([old, -old])
    exact = fit(torch.from_numpy(both @ both.T), torch.from_numpy(both @ np.arange(6.0)), steps=200)
    assert exact.noise == pytest.approx(NOISE_RANGE[0])


def test_the_likeliest_kernel_is_chosen() -> None:
    old, _, targets, _ = _case(2, 20, 1)
    other = _case(3, 20, 1)[0]
    both = torch.from_numpy(np.stack([other @ other.T, old @ old.T]))
    assert fit_best(both, torch.from_numpy(targets))[0] == 1


def test_too_few_points_strange_shapes_and_numbers_are_refused() -> None:
    eye = torch.eye(LEAST_POINTS)
    with pytest.raises(ValueError, match="would be noise"):
        fit(eye[1:, 1:], torch.zeros(LEAST_POINTS - 1))
    with pytest.raises(ValueError, match="expected a kernel"):
        fit(eye, torch.zeros(LEAST_POINTS + 1))
    with pytest.raises(ValueError, match="finite"):
        fit(eye, torch.full((LEAST_POINTS,), math.nan))


def test_targets_that_are_all_equal_are_predicted() -> None:
    mean, _ = fit(torch.eye(12), torch.full((12,), 0.5)).predict(torch.zeros(2, 12), torch.ones(2))
    assert mean.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("mean", "deviation", "incumbent"), [(0.5, 0.2, 0.6), (0.7, 0.1, 0.6), (0, 1, 0), (0.3, 0.1, 0.6)]
)
def test_expected_improvement_is_the_mean_of_draws(mean: float, deviation: float, incumbent: float) -> None:
    draws = np.random.default_rng(0).normal(mean, deviation, 400_000)
    gains = np.maximum(draws - incumbent, 0)
    (got,) = expected_improvement(torch.tensor([mean]), torch.tensor([deviation**2]), incumbent).tolist()
    assert got == pytest.approx(gains.mean(), abs=5 * gains.std() / math.sqrt(len(draws)) + 1e-8)


@given(st.floats(-3, 3), st.floats(0, 2), st.floats(-3, 3))
def test_expected_improvement_is_never_below_0_or_the_gain_itself(mean: float, variance: float, best: float) -> None:
    pair = torch.tensor([mean, variance], dtype=torch.float64)
    (got,) = expected_improvement(pair[:1], pair[1:], best).tolist()
    assert got >= max(0.0, mean - best) - 1e-12
    assert math.isfinite(got)


def test_without_variance_it_is_what_the_mean_exceeds_by() -> None:
    got = expected_improvement(torch.tensor([1.0, 3.0]), torch.zeros(2), 2.0)
    assert got.tolist() == [0.0, 1.0]


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    ranks = [values.argsort().argsort() for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def test_counting_what_choices_have_in_common_makes_predictions_much_better() -> None:
    with_traits, without = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        schemes = [SPACE.sample(rng) for _ in range(130)]
        rewards = np.array([reward(scheme) for scheme in schemes])
        graphs = [scheme_graph(SPACE, scheme) for scheme in schemes]
        bare = [LabelledGraph(graph.labels, graph.edges) for graph in graphs]
        for some, found in ((graphs, with_traits), (bare, without)):
            counts = [subtree_counts(graph, DEPTH) for graph in some]
            all_kernels = torch.from_numpy(kernels(counts, counts[:30], WEIGHTS))
            depth, process = fit_best(all_kernels[:, :30], torch.from_numpy(rewards[:30]))
            mean, _ = process.predict(all_kernels[depth, 30:], torch.ones(100))
            found.append(_rank_correlation(mean.numpy(), rewards[30:]))
    assert sum(with_traits) / 3 > 0.5
    assert sum(with_traits) / 3 > sum(without) / 3 + 0.15


# ---- screening ------------------------------------------------------------------------------------------------------


def _space() -> SchemeSpace:
    return SchemeSpace([Stage(f"s{n}", 16, 16 * (1 + n // 2), "3x3", 1 + n // 2) for n in range(3)])


def _reward(scheme) -> float:
    return -sum((n + 1) * (choice.kept - 0.4) ** 2 for n, choice in enumerate(scheme.choices))


def _drawn(count: int, seed: int) -> list:
    rng, space = np.random.default_rng(seed), _space()
    return list(dict.fromkeys(space.sample(rng) for _ in range(count)))


def test_what_is_kept_is_better_than_the_pool_on_average() -> None:
    drawn = _drawn(140, 0)
    seen, pool = [(scheme, _reward(scheme)) for scheme in drawn[:40]], drawn[40:]
    kept = screen(_space(), pool, seen, 5)
    assert len(set(kept.schemes)) == 5
    assert set(kept.schemes) <= set(pool)
    assert list(kept.expected) == sorted(kept.expected, reverse=True)
    top = sorted(map(_reward, pool))[-len(pool) // 3 :]
    assert sum(map(_reward, kept.schemes)) / 5 > top[0]


def test_the_order_of_the_pool_changes_nothing() -> None:
    drawn = _drawn(60, 1)
    seen, pool = [(scheme, _reward(scheme)) for scheme in drawn[:20]], drawn[20:]
    assert screen(_space(), pool, seen, 4).schemes == screen(_space(), pool[::-1], seen, 4).schemes


def test_the_incumbent_is_a_reward_that_was_observed_and_no_lucky_one() -> None:
    drawn = _drawn(60, 2)
    seen, pool = [(scheme, _reward(scheme)) for scheme in drawn[:30]], drawn[30:]
    kept = screen(_space(), pool, seen, 4)
    assert kept.incumbent in {reward for _, reward in seen}


def test_a_scheme_that_was_evaluated_is_not_screened_again() -> None:
    drawn = _drawn(20, 3)
    with pytest.raises(ValueError, match="have been evaluated"):
        screen(_space(), drawn, [(scheme, 0.0) for scheme in drawn[:12]], 2)
