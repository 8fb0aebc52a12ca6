from __future__ import annotations

import copy
import pickle
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from monstera.sparsity import ALL, Block, Layout, NOfM, PatternError, WeightView, kept_groups, pattern
from sparsity.drawing import SHAPES, weights

EXTENTS = st.one_of(st.integers(1, 5), st.just(ALL))
BLOCKS = st.builds(Block, EXTENTS, EXTENTS, EXTENTS, st.sampled_from(["layer", "network"])) | st.builds(
    Block, EXTENTS, st.integers(1, 5), EXTENTS, st.sampled_from([NOfM(1, 2), NOfM(2, 4), NOfM(1, 3)])
)


def asked(block: Block, density: float) -> float | None:
    return None if isinstance(block.scope, NOfM) else density


def slow_groups(block: Block, shape: tuple[int, ...]) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Block coordinate -> weight coordinates [out, in, position], by the definition, for a plain layout."""
    positions = 1
    for size in shape[2:]:
        positions *= size
    sides = (shape[0], shape[1], positions)
    extents = [side if e == ALL else e for e, side in zip((block.out, block.in_, block.positions), sides, strict=True)]
    found: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for weight in product(*map(range, sides)):
        found.setdefault(tuple(w // e for w, e in zip(weight, extents, strict=True)), []).append(weight)
    return found


def slow_mask(block: Block, weight: Tensor, density: float) -> Tensor:
    flat = weight.double().flatten(2) if weight.dim() > 2 else weight.double()[..., None]
    groups = slow_groups(block, tuple(weight.shape))
    energy = {g: sum(float(flat[w]) ** 2 for w in members) for g, members in groups.items()}
    if isinstance(block.scope, NOfM):
        runs: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for o, i, p in groups:
            runs.setdefault((o, i // block.scope.m, p), []).append((o, i, p))
        kept = [g for run in runs.values() for g in sorted(run, key=lambda g: (-energy[g], g))[: block.scope.n]]
    else:
        kept = sorted(groups, key=lambda g: (-energy[g], g))[: kept_groups(density, len(groups))]
    mask = torch.zeros(flat.shape, dtype=torch.bool)
    for group in kept:
        for member in groups[group]:
            mask[member] = True
    return mask.view(weight.shape)


@settings(max_examples=150)
@given(BLOCKS, weights(SHAPES.filter(lambda s: torch.Size(s).numel() <= 200)), st.floats(0.01, 1))
def test_projection_agrees_with_the_definition(block: Block, weight: Tensor, density: float) -> None:
    if weight.is_floating_point():
        weight = (weight * 4).round() / 4  # sums of these squares are exact in any order, so that ties are ties
    expected = torch.where(slow_mask(block, weight, density), weight, torch.zeros_like(weight))
    assert torch.equal(block.project(weight, asked(block, density)), expected)


@given(BLOCKS, weights(), st.floats(0.01, 1))
def test_a_projection_obeys_its_pattern_keeps_its_exact_budget_and_is_idempotent(
    block: Block, weight: Tensor, density: float
) -> None:
    projected = block.project(weight, asked(block, density))
    assert projected.shape == weight.shape
    assert projected.dtype == weight.dtype
    assert block.holds(projected, asked(block, density))
    assert torch.equal(block.project(projected, asked(block, density)), projected)
    mask = block.mask(weight.double().square(), asked(block, density))
    if not isinstance(block.scope, NOfM):
        assert int(block.alive(mask).sum()) == kept_groups(density, block.count(weight.shape))
    assert torch.equal(block.expand(block.alive(mask), weight.shape), mask), "groups live or die together"


@given(BLOCKS, weights(), st.floats(0.01, 1), st.integers(0, 2**20))
def test_no_mask_of_the_pattern_is_nearer_than_the_projection(
    block: Block, weight: Tensor, density: float, seed: int
) -> None:
    weight = weight.double()
    generator = torch.Generator().manual_seed(seed)
    other = block.mask(torch.rand(weight.shape, generator=generator), asked(block, density))
    distance = (weight - block.project(weight, asked(block, density))).norm()
    assert distance <= (weight - weight * other).norm() + 1e-12


@given(BLOCKS, weights())
def test_groups_partition_the_weight_and_agree_with_group_scores(block: Block, weight: Tensor) -> None:
    index = block.groups(weight)
    scores = block.group_scores(weight.double())
    assert index.shape == weight.shape
    assert torch.equal(index.unique(), torch.arange(block.count(weight.shape)))
    by_index = torch.zeros(scores.numel(), dtype=torch.float64).index_add(0, index.flatten(), weight.double().flatten())
    torch.testing.assert_close(scores.flatten(), by_index)


@given(BLOCKS)
def test_a_name_stands_for_exactly_one_pattern(block: Block) -> None:
    assert pattern(block.name) == block
    assert pattern(str(block).upper()) == block
    assert pickle.loads(pickle.dumps(block)) == copy.deepcopy(block) == block


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("unstructured", Block()),
        ("filter", Block(1, ALL, ALL)),
        ("channel", Block(ALL, 1, ALL)),
        ("column", Block(ALL, 1, 1)),
        ("kernel", Block(1, 1, ALL)),
        ("layer", Block(ALL, ALL, ALL, "network")),
        ("4x1", Block(4, 1, 1)),
        ("1x8", Block(1, 8, 1)),
        ("8x4", Block(8, 4, 1)),
        ("4x4x2", Block(4, 4, 2)),
        ("8x4xall", Block(8, 4, ALL)),
        ("2:4", Block(scope=NOfM(2, 4))),
        ("4x1@2:4", Block(4, 1, 1, NOfM(2, 4))),
        ("unstructured@network", Block(scope="network")),
        ("filter@network", Block(1, ALL, ALL, "network")),
    ],
)
def test_short_names_mean_what_the_literature_means(name: str, block: Block) -> None:
    assert pattern(name) == block
    assert pattern(block) is block


@pytest.mark.parametrize(
    "name", ["4", "4x", "x1", "0x1", "4:2", "0:4", "2:4@network", "4x1@world", "filter@2:4", "", 4, None]
)
def test_what_is_no_pattern_is_refused(name) -> None:
    with pytest.raises(PatternError):
        pattern(name)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(PatternError, match="unstructured, filter, channel"):
        pattern("diagonal")


@pytest.mark.parametrize("fields", [{"out": 0}, {"in_": 1.5}, {"positions": True}, {"out": "some"}, {"scope": "world"}])
def test_a_malformed_block_is_refused(fields: dict) -> None:
    with pytest.raises(PatternError, match=r"Block\."):
        Block(**fields)


def test_known_projections_of_a_small_convolution() -> None:
    weight = torch.zeros(2, 2, 1, 3)
    weight[0, 0, 0] = torch.tensor([3.0, 0.0, 1.0])
    weight[1, 1, 0] = torch.tensor([0.0, 2.0, 2.0])

    def survivors(name: str, density: float | None) -> set[tuple[int, ...]]:
        return {tuple(i) for i in pattern(name).project(weight, density).nonzero().tolist()}

    assert survivors("unstructured", 1 / 12) == {(0, 0, 0, 0)}
    assert survivors("filter", 0.5) == survivors("kernel", 0.25) == {(0, 0, 0, 0), (0, 0, 0, 2)}
    assert survivors("channel", 0.5) == {(0, 0, 0, 0), (0, 0, 0, 2)}
    assert survivors("column", 1 / 6) == {(0, 0, 0, 0)}
    assert survivors("1:2", None) == {(0, 0, 0, 0), (0, 0, 0, 2), (1, 1, 0, 1), (1, 1, 0, 2)}
    assert survivors("2x2", 1 / 3) == {(0, 0, 0, 0)}


def test_blocks_never_straddle_gates_or_convolution_groups() -> None:
    gru = nn.GRU(4, 5)  # gates of 5 rows: blocks of 4 are cut 4 + 1 in each
    view = WeightView(gru, "weight_ih_l0")
    index = pattern("4x1").groups(view)
    assert pattern("4x1").count(view.weight.shape, view.layout) == 3 * 2 * 4
    for gate in range(2):
        assert not set(index[gate * 5 : gate * 5 + 5].flatten().tolist()) & set(
            index[gate * 5 + 5 :].flatten().tolist()
        )


def test_a_view_is_projected_in_the_weights_own_layout() -> None:
    module = nn.ConvTranspose2d(4, 6, 3)
    projected = pattern("filter").project(WeightView(module), 0.5)
    alive = projected.flatten(2).count_nonzero((0, 2))  # filters of a transposed convolution lie along dimension 1
    assert sorted(alive.tolist()) == [0, 0, 0, 36, 36, 36]


def test_tiny_and_huge_half_precision_weights_are_ranked_by_their_true_size() -> None:
    assert pattern("unstructured").project(torch.tensor([[1e-30, 2e-30, 3e-30]]), 1 / 3).nonzero().tolist() == [[0, 2]]
    huge = torch.tensor([[6e4, 5e4, 4e4]], dtype=torch.float16)
    assert pattern("unstructured").project(huge, 2 / 3).tolist()[0][2] == 0


def test_integer_and_complex_weights_are_projected_too() -> None:
    assert pattern("unstructured").project(torch.tensor([[-128, 1, 5]], dtype=torch.int8), 1 / 3).tolist() == [
        [-128, 0, 0]
    ]
    assert pattern("unstructured").project(torch.tensor([[3j, 1 + 1j]]), 0.5).tolist() == [[3j, 0]]


def test_signed_scores_are_ranked_with_their_sign() -> None:
    assert pattern("unstructured").mask(torch.tensor([[-5.0, 1.0, -1.0]]), 1 / 3).tolist() == [[False, True, False]]


def test_group_scores_carry_gradients_so_that_group_lasso_can_use_them() -> None:
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    pattern("4x2").group_scores(weight.square()).sqrt().sum().backward()
    index = pattern("4x2").groups(weight)
    norms = torch.zeros(int(index.max()) + 1, dtype=torch.float64)
    norms = norms.index_add(0, index.flatten(), weight.detach().square().flatten()).sqrt()
    torch.testing.assert_close(weight.grad, weight.detach() / norms[index])


def test_projection_neither_changes_nor_aliases_its_weight() -> None:
    weight = torch.randn(4, 4, requires_grad=True)
    before = weight.detach().clone()
    projected = pattern("4x1").project(weight, 1.0)
    projected.zero_()
    assert torch.equal(weight, before)
    assert not projected.requires_grad


def test_holding_clears_holes_in_place_even_where_they_hold_nan() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, float("nan")]]))
    grad = torch.tensor([[2.0, 3.0]])
    pattern("unstructured").hold(weight, grad, torch.tensor([[True, False]]))
    assert weight.tolist() == [[1.0, 0.0]]
    assert grad.tolist() == [[2.0, 0.0]]


def test_holds_counts_living_groups_and_forgives_single_zeros_in_them() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert pattern("2x1").holds(weight, 0.5)
    weight[1, 1] = 1e-30
    assert not pattern("2x1").holds(weight, 0.5)
    assert pattern("2x1").holds(weight)
    assert not pattern("1:2").holds(torch.ones(1, 2))


def test_a_group_whose_weights_cancel_is_still_alive() -> None:
    weight = torch.tensor([[1.0, 2.0], [-1.0, 0.0]])
    assert pattern("2x1").alive(weight).all()
    assert not pattern("2x1").holds(weight, 0.5)


@pytest.mark.parametrize(
    ("name", "density", "shape", "reason"),
    [
        ("4x1", None, (8, 8), "needs a density"),
        ("4x1", 0.0, (8, 8), "kept fraction"),
        ("4x1", 1.5, (8, 8), "kept fraction"),
        ("2:4", 0.25, (8, 8), "keeps exactly 0.5"),
        ("2:4", None, (8, 3), "needs 4 neighbours"),
        ("4x1@1:4", None, (8, 3, 3, 3), "needs 4 neighbours"),
        ("1x1x3", 0.5, (8, 8), "spans 3 kernel positions"),
        ("8x4", 0.5, (1, 1, 3, 3), "shrinks to single weights"),
        ("filter", 0.5, (1, 8), "one single group"),
        ("4x1", 0.5, (8,), "2 to 5 dimensions"),
    ],
)
def test_what_makes_no_sense_is_not_feasible_and_says_why(
    name: str, density: float | None, shape: tuple[int, ...], reason: str
) -> None:
    assert reason in pattern(name).refusal(density, shape)
    assert not pattern(name).feasible(density, shape)


@pytest.mark.parametrize(
    ("name", "density", "shape"),
    [
        ("4x1", 0.25, (10, 3, 3, 3)),
        ("8x4", 1, (3, 3)),
        ("2:4", 0.5, (1, 6)),
        ("kernel", 0.1, (8, 8)),
        ("layer", 0.5, (2, 2)),
    ],
)
def test_what_has_ragged_edges_is_still_feasible(name: str, density: float, shape: tuple[int, ...]) -> None:
    assert pattern(name).feasible(density, shape)


def test_a_layout_that_does_not_divide_the_weight_is_not_feasible() -> None:
    assert "does not divide" in pattern("4x1").refusal(0.5, (10, 4), Layout(parts=3))


def test_patterns_describe_themselves() -> None:
    assert pattern("8x4").exact
    assert (
        pattern("8x4xall").describe() == "blocks of 8 x 4 x all (out x in x positions), the strongest of the layer kept"
    )
    assert "2 kept of every 4" in pattern("2:4").describe()
