"""Projections against every choice there is, on weights small enough to try them all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monstera.sparsity import BlockColumnRow, KernelPattern, kept_groups, pattern

DENSITIES = st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.75, 1.0])


def kept(weight: Tensor, projected: Tensor) -> float:
    """The energy that is left; the largest possible belongs to the nearest point."""
    assert torch.equal(projected, weight.where(projected != 0, 0.0))
    return float(projected.square().sum())


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    """Whole numbers, whose squares add up exactly in any order, ties among them."""
    return torch.randint(-6, 7, shape, generator=torch.Generator().manual_seed(seed)).double()


def subsets(lines: int) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(range(lines), count) for count in range(1, lines + 1))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("unstructured", (3, 4)),
        ("4x1", (6, 3)),
        ("2x2", (3, 5)),
        ("1x2", (2, 2, 3)),
        ("filter", (5, 2, 2)),
        ("channel", (2, 6, 2)),
        ("column", (2, 3, 1, 3)),
        ("kernel", (2, 4, 2, 2)),
        ("2x1x3", (3, 2, 4)),
    ],
)
@given(density=DENSITIES, seed=st.integers(0, 10_000))
def test_disjoint_groups_are_kept_as_well_as_any_choice_of_so_many(
    name: str, shape: tuple[int, ...], density: float, seed: int
) -> None:
    holes, weight = pattern(name), drawn(shape, seed)
    group = holes.groups(weight).flatten()
    energies = torch.zeros(int(group.max()) + 1).double().index_add(0, group, weight.square().flatten())
    count = kept_groups(density, len(energies))
    best = max(float(energies[list(chosen)].sum()) for chosen in combinations(range(len(energies)), count))
    projected = holes.project(weight, density)
    assert kept(weight, projected) == best
    assert len(group[projected.flatten() != 0].unique()) <= count


@given(seed=st.integers(0, 10_000), density=DENSITIES)
def test_kernels_keep_as_much_as_any_patterns_of_a_library_of_all(seed: int, density: float) -> None:
    """With all patterns in the library nothing is left to mine, and the projection is the nearest point."""
    weight = drawn((2, 2, 2, 2), seed)
    projected = KernelPattern(2, 6, centre=False).project(weight, density * 0.5)
    kernels = weight.square().flatten(2).flatten(0, 1)
    strongest = torch.stack([kernels[:, list(two)].sum(1) for two in combinations(range(4), 2)]).amax(0)
    count = kept_groups(density, 4)
    assert kept(weight, projected) == max(float(strongest[list(c)].sum()) for c in combinations(range(4), count))


def best_crossing(weight: Tensor, high: int, wide: int, budget: int) -> float:
    """The most energy in living columns and rows of blocks that meet in no more weights than the budget."""
    found = {0: 0.0}  # by weights spent
    for r, c in product(range(0, weight.shape[0], high), range(0, weight.shape[1], wide)):
        block = weight[r : r + high, c : c + wide].square()
        ways = [(0, 0.0)] + [
            (len(rows) * len(columns), float(block[list(rows)][:, list(columns)].sum()))
            for rows, columns in product(subsets(block.shape[0]), subsets(block.shape[1]))
        ]
        reached: dict[int, float] = {}
        for (spent, energy), (cost, gain) in product(found.items(), ways):
            if spent + cost <= budget:
                reached[spent + cost] = max(reached.get(spent + cost, 0.0), energy + gain)
        found = reached
    return max(found.values())


def test_crossing_columns_and_rows_come_near_the_best_choice(capsys: pytest.CaptureFixture[str]) -> None:
    """Groups overlap, so that the projection is near and no more; how near is printed."""
    shares = []
    for seed in range(60):
        weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)).double()
        for density in (0.25, 0.5):
            budget = kept_groups(density, weight.numel())
            projected = BlockColumnRow(4, 3).project(weight, density)
            best, got = best_crossing(weight, 4, 3, budget), kept(weight, projected)
            assert int(BlockColumnRow(4, 3).alive(projected).sum()) <= budget
            assert got <= best * (1 + 1e-12)
            shares.append(got / best)
    mean = sum(shares) / len(shares)
    with capsys.disabled():
        print(f"\nBCR keeps {mean:.1%} of the best choice's energy on average, {min(shares):.1%} at worst")
    assert mean > 0.8
