"""Bayesian screening: of many schemes, those that a Gaussian process expects most of are worth an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monstera.search.npas.gaussian_process import GaussianProcess, fit_best
from monstera.search.npas.scheme import Scheme
from monstera.search.npas.space import SchemeSpace
from monstera.search.npas.weisfeiler_lehman import kernels, scheme_graph, subtree_counts

# How deep subtrees may be, and what each depth weighs.
DEPTH = 4
WEIGHTS = (1.0,) * (DEPTH + 1)


def expected_improvement(mean: Tensor, variance: Tensor, incumbent: float, margin: float = 0.0) -> Tensor:
    """By how much a normal variable exceeds `incumbent + margin` on average: float64, never negative.

    With u = (mean - incumbent - margin) / s it is `(mean - incumbent - margin) Phi(u) + s phi(u)`, s the root of
    `variance`; without variance it is what the mean exceeds by.
    """
    gain, deviation = mean.double() - incumbent - margin, variance.double().sqrt()
    u = gain / deviation.clamp_min(1e-150)
    density = (-0.5 * u.square()).exp() / math.sqrt(2 * math.pi)
    expected = gain * torch.special.ndtr(u) + deviation * density
    return torch.where(deviation > 0, expected, gain).clamp_min(0)


@dataclass(frozen=True, slots=True)
class Screened:
    """What is worth an evaluation, best first, and what it was chosen by.

    Attributes:
        schemes: those kept.
        expected: the improvement expected of each.
        means: the reward expected of each.
        depth: of the subtrees in the kernel that explains the rewards best.
        noise: variance, in units of the standardised rewards.
        incumbent: the reward to improve on.
    """

    schemes: tuple[Scheme, ...]
    expected: tuple[float, ...]
    means: tuple[float, ...]
    depth: int
    noise: float
    incumbent: float


def screen(space: SchemeSpace, pool: Sequence[Scheme], seen: Sequence[tuple[Scheme, float]], keep: int) -> Screened:
    """Choose the `keep` schemes of the pool of which most improvement is expected.

    The incumbent is the observed reward of the seen scheme with the best posterior mean: the best reward observed may
    be there by luck, and nothing would be expected to exceed it. Of equals the smaller digest comes first.

    Args:
        space: which all schemes are of.
        pool: none of which has been evaluated.
        seen: schemes and their rewards, in the order in which they were evaluated.
        keep: how many; all, if the pool has no more.

    Raises:
        ValueError: too few seen for a process, or a scheme of the pool has been seen.

    Source: NPAS (arXiv 2012.00596) for the use, NAS-BOWL for kernel and process; the incumbent is a choice of ours.
    """
    if again := {scheme for scheme, _ in seen} & set(pool):
        raise ValueError(f"{len(again)} schemes of the pool have been evaluated; leave them out")
    rewards = torch.tensor([reward for _, reward in seen], dtype=torch.float64)
    counts_seen, counts_pool = (
        [subtree_counts(scheme_graph(space, scheme), DEPTH) for scheme in schemes]
        for schemes in ([scheme for scheme, _ in seen], pool)
    )
    within = kernels(counts_seen, counts_seen, WEIGHTS)
    depth, process = fit_best(torch.from_numpy(within), rewards)
    incumbent = _incumbent(process, within[depth], rewards)
    cross = torch.from_numpy(kernels(counts_pool, counts_seen, WEIGHTS)[depth])
    mean, variance = process.predict(cross, torch.ones(len(pool)))
    expected = expected_improvement(mean, variance, incumbent)
    order = sorted(range(len(pool)), key=lambda number: (-float(expected[number]), pool[number].digest))[:keep]
    return Screened(
        tuple(pool[number] for number in order),
        tuple(float(expected[number]) for number in order),
        tuple(float(mean[number]) for number in order),
        depth,
        process.noise,
        incumbent,
    )


def _incumbent(process: GaussianProcess, within: np.ndarray, rewards: Tensor) -> float:
    mean, _ = process.predict(torch.from_numpy(within), torch.ones(len(rewards)))
    return float(rewards[int(mean.argmax())])
