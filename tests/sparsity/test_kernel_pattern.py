"""Kernel patterns: the mask against its definition in loops, budgets, libraries of one layer and of a network."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import monstera as ms
from monstera.sparsity import KernelPattern, PatternError, PlanError, kept_groups, pattern

PATTERNS = st.builds(
    KernelPattern, st.integers(1, 4), st.integers(1, 9), st.booleans(), st.sampled_from(["layer", "network"])
)


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """3x3 convolutions whose weights, all but some kernels, are not zero and tie now and then."""
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 5)), 3, 3)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    largest = draw(st.sampled_from([3, 1000]))
    weight = torch.randint(1, largest + 1, shape, generator=generator).double()
    return weight * (torch.rand(shape[:2], generator=generator) < 0.8)[..., None, None]


def slow_mask(holes: KernelPattern, weight: Tensor, density: float) -> Tensor:
    """By the definition, kernel by kernel."""
    energy = weight.square().flatten(0, 1).flatten(1).tolist()
    entries = max(holes.entries, int(density * 9 + 1e-8))

    def natural(kernel: list[float]) -> tuple[int, ...]:
        middle = [4] if holes.centre else []
        others = sorted((i for i in range(9) if i not in middle), key=lambda i: (-kernel[i], i))
        return tuple(sorted([*middle, *others[: entries - len(middle)]]))

    found = Counter(natural(kernel) for kernel in energy if any(kernel)) or Counter([natural(energy[0])])
    library = [p for p, _ in sorted(found.items(), key=lambda item: (-item[1], item[0]))][: holes.library]
    best = [max(library, key=lambda p: (sum(kernel[i] for i in p), -library.index(p))) for kernel in energy]
    value = [sum(kernel[i] for i in p) for kernel, p in zip(energy, best, strict=True)]
    count = min(len(energy), -(-kept_groups(density, weight.numel()) // entries))
    kept = sorted(range(len(energy)), key=lambda k: (-value[k], k))[:count]
    mask = torch.zeros(len(energy), 9, dtype=torch.bool)
    for k in kept:
        mask[k, list(best[k])] = True
    return mask.view(weight.shape)


@given(PATTERNS, weights(), st.floats(0.01, 1))
def test_the_mask_agrees_with_the_definition(holes: KernelPattern, weight: Tensor, density: float) -> None:
    assert torch.equal(holes.mask(weight.square(), density), slow_mask(holes, weight, density))


@given(PATTERNS, weights(), st.floats(0.01, 1))
def test_a_projection_obeys_its_pattern_and_its_budget(holes: KernelPattern, weight: Tensor, density: float) -> None:
    projected = holes.project(weight, density)
    assert holes.holds(projected, density)
    entries = max(holes.entries, int(density * 9 + 1e-8))
    mask = holes.mask(weight.square(), density).flatten(2)
    assert set(mask.sum(2).flatten().tolist()) <= {0, entries}
    assert int(mask.sum()) < kept_groups(density, weight.numel()) + entries
    assert len({tuple(row) for row in mask.flatten(0, 1).tolist() if any(row)}) <= holes.library


@given(PATTERNS, weights(), st.floats(4 / 9, 1))
def test_above_what_its_entries_keep_no_living_kernel_goes(holes: KernelPattern, weight: Tensor, density: float):
    kept = holes.mask(weight.square(), density).flatten(2).any(2)
    assert kept[weight.flatten(2).any(2)].all()


@given(weights())
def test_with_every_pattern_in_the_library_each_kernel_keeps_its_strongest_positions(weight: Tensor) -> None:
    projected = KernelPattern(4, 200, centre=False).project(weight, 4 / 9).flatten(2)
    assert torch.equal(projected.sum(2), weight.flatten(2).topk(4, 2).values.sum(2))


@given(PATTERNS)
def test_a_name_stands_for_exactly_one_pattern(holes: KernelPattern) -> None:
    assert pattern(holes.name) == holes
    assert pattern(str(holes).upper()) == holes
    assert pickle.loads(pickle.dumps(holes)) == copy.deepcopy(holes) == holes
    assert not holes.exact
    assert str(holes.library) in holes.describe()


def test_short_names() -> None:
    assert pattern("patterns4of8") == KernelPattern()
    assert pattern("patterns5of13anywhere@network") == KernelPattern(5, 13, False, "network")
    for wrong in ("patterns", "patterns4", "patterns0of8", "patterns4of8@2:4"):
        with pytest.raises(PatternError):
            pattern(wrong)


@pytest.mark.parametrize("fields", [{"entries": 0}, {"library": 1.5}, {"scope": "world"}])
def test_a_malformed_pattern_is_refused(fields: dict) -> None:
    with pytest.raises(PatternError, match=r"KernelPattern\."):
        KernelPattern(**fields)


@pytest.mark.parametrize(
    ("name", "density", "shape", "reason"),
    [
        ("patterns4of8", None, (8, 8, 3, 3), "needs a density"),
        ("patterns4of8", 0.4, (8, 8), "these have 1"),
        ("patterns4of8", 0.4, (8, 8, 2, 2), "these have 4"),
        ("patterns4of8", 0.4, (8, 8, 7, 9), "these have 63"),
        ("patterns2of8", 0.4, (8, 8, 2, 2), "no middle"),
        ("patterns4of8", 0.4, (8,), "2 to 5 dimensions"),
    ],
)
def test_what_makes_no_sense_says_why(name: str, density: float | None, shape: tuple[int, ...], reason: str) -> None:
    assert reason in pattern(name).refusal(density, shape)
    assert not pattern(name).feasible(density, shape)


def test_a_nan_is_refused() -> None:
    with pytest.raises(PatternError, match="NaN"):
        pattern("patterns4of8").mask(torch.full((2, 2, 3, 3), float("nan")), 0.4)


def test_holds_counts_positions_patterns_and_kernels() -> None:
    weight = torch.zeros(1, 3, 3, 3)
    for kernel, positions in enumerate([(4, 0, 1), (4, 0, 2), (4, 7)]):
        weight[0, kernel].view(-1)[list(positions)] = 1
    assert pattern("patterns3of2").holds(weight, 1 / 3) is False, "{4, 7} is in neither of the two patterns"
    assert pattern("patterns3of3").holds(weight, 1 / 3)
    assert pattern("patterns4of2").holds(weight, 4 / 9)
    assert not pattern("patterns2of9").holds(weight)
    assert pattern("patterns3of3").holds(weight)
    assert not pattern("patterns3of3").holds(weight, 2 / 9), "two kernels may live"


def test_a_network_shares_one_library_and_one_budget_whatever_the_order_of_its_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 8, 3), nn.Conv2d(8, 10, 3), nn.Conv2d(10, 4, 1))
    with torch.no_grad():
        model[1].weight.mul_(3)
    plan = ms.Plan({f"{i}.weight": ("patterns4of6@network", 0.2) for i in (0, 1)})
    masks = plan.masks(model)
    ms.prune(model, plan)
    assert plan.verify(model).ok
    kept = {tuple(k) for m in masks.values() for k in m.flatten(2).flatten(0, 1).tolist() if any(k)}
    assert len(kept) <= 6
    kernels = [int(m.flatten(2).any(2).sum()) for m in masks.values()]
    assert sum(kernels) == -(-kept_groups(0.2, 128 * 9) // 4)
    assert kernels[1] / 80 > 2 * kernels[0] / 48
    with torch.no_grad():
        model[0].weight[0, 0] = 1.0
    assert not plan.verify(model).ok


def test_kernels_of_two_sizes_share_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 5))
    plan = ms.Plan({f"{i}.weight": ("patterns4of6@network", 0.2) for i in (0, 1)})
    with pytest.raises(PlanError, match="different sizes"):
        plan.masks(model)


@pytest.mark.parametrize("make", [ms.ADMM, ms.Gradual, ms.GroupLasso])
def test_methods_train_it_in_like_any_other_pattern(make) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(24, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    plan = ms.Plan({"0.weight": ("patterns4of4", 4 / 9), "2.weight": ("patterns4of4", 0.2)})
    pruner = make(model, optimizer, plan, steps=30)
    x, y = torch.randn(16, 2, 6, 6), torch.randint(0, 3, (16,))
    for _ in range(30):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    pruner.finish()
    assert plan.verify(model).ok
    assert int((model[0].weight != 0).flatten(2).sum(2).max()) == 4


def test_all_patterns_of_a_volume_are_found_and_compile() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 4, 3)).eval()
    plan = ms.Plan({"0.weight": ("patterns8of5", 0.2), "2.weight": ("patterns4of8", 0.1)})
    ms.prune(model, plan)
    assert plan.verify(model).ok
    assert [*itertools.chain(plan)] == ["0.weight", "2.weight"]
    x = torch.randn(1, 3, 5, 6, 7)
    torch.testing.assert_close(torch.as_tensor(ms.compile(model, x)(x)), model(x), rtol=1e-4, atol=1e-5)
