"""Columns and rows of blocks: the mask against its definition in loops, its budget, and what it is at both ends."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import monstera as ms
from monstera.sparsity import ALL, Block, BlockColumnRow, Entry, Layout, PatternError, PlanError, kept_groups, pattern

EXTENTS = st.one_of(st.integers(1, 5), st.just(ALL))
SHARES = st.sampled_from([0, 0.25, 0.4, 1])
PATTERNS = st.builds(BlockColumnRow, EXTENTS, EXTENTS, SHARES, st.sampled_from(["layer", "block"]))
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 7)).flatmap(
    lambda head: st.lists(st.integers(1, 2), max_size=2).map(lambda kernel: (*head, *kernel))
)


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """Weights with ties and zeros, whose squares add up exactly in any order."""
    shape, generator = draw(SHAPES), torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    largest = draw(st.sampled_from([2, 1000]))
    return torch.randint(-largest, largest + 1, shape, generator=generator).double()


def slow_mask(holes: BlockColumnRow, weight: Tensor, density: float) -> Tensor:
    """By the definition, line by line, for a plain layout."""
    squares = weight.square().flatten(2) if weight.dim() > 2 else weight.square()[..., None]
    rows, channels, positions = squares.shape
    high = rows if holes.out == ALL else min(holes.out, rows)
    wide = channels if holes.in_ == ALL else min(holes.in_, channels)
    blocks = [
        (range(r, min(r + high, rows)), range(c, min(c + wide, channels)))
        for r in range(0, rows, high)
        for c in range(0, channels, wide)
    ]
    columns = [(b, c, p) for b, (_, across) in enumerate(blocks) for c in across for p in range(positions)]
    energy = {(b, c, p): sum(squares[r, c, p].item() for r in blocks[b][0]) for b, c, p in columns}
    cost = {(b, c, p): len(blocks[b][0]) for b, c, p in columns}
    alive = chosen(holes, columns, energy, cost, density ** (1 - holes.row_share), weight.numel())
    if holes.row_share:
        lines = [(b, r) for b, (down, _) in enumerate(blocks) for r in down]
        energy = {(b, r): sum(squares[r, c, p].item() for a, c, p in alive if a == b) for b, r in lines}
        cost = {(b, r): sum(a == b for a, _, _ in alive) for b, r in lines}
        share = density if holes.scope == "layer" else density**holes.row_share
        kept = chosen(holes, [line for line in lines if cost[line]], energy, cost, share, weight.numel())
    else:
        kept = [(b, r) for b, (down, _) in enumerate(blocks) for r in down]
    mask = torch.zeros(squares.shape, dtype=torch.bool)
    for b, c, p in alive:
        for a, r in kept:
            mask[r, c, p] |= a == b
    return mask.view(weight.shape)


def chosen(holes, lines, energy, cost, density, numel):
    alive = [line for line in lines if energy[line] > 0]
    if holes.scope == "block":
        return [
            line
            for b in {line[0] for line in lines}
            for line in sorted((a for a in alive if a[0] == b), key=lambda a: (-energy[a], a))[
                : kept_groups(density, sum(a[0] == b for a in lines))
            ]
        ]
    taken, spent = [], 0
    for line in sorted(alive, key=lambda a: (-energy[a] / cost[a], a)):
        spent += cost[line]
        if taken and spent > kept_groups(density, numel):
            break
        taken.append(line)
    return taken


@settings(max_examples=200)
@given(PATTERNS, weights(), st.floats(0.01, 1))
def test_the_mask_agrees_with_the_definition(holes: BlockColumnRow, weight: Tensor, density: float) -> None:
    assert torch.equal(holes.mask(weight.square(), density), slow_mask(holes, weight, density))


@settings(max_examples=200)
@given(PATTERNS, weights(), st.floats(0.01, 1))
def test_a_projection_obeys_its_pattern_and_is_idempotent(holes, weight, density) -> None:
    projected = holes.project(weight, density)
    assert holes.holds(projected, density)
    # One line is kept whatever it costs: a whole column of a high block may be more than the budget.
    if holes.scope == "block" or int(holes.alive(projected).sum()) <= kept_groups(density, weight.numel()):
        assert torch.equal(holes.project(projected, density), projected)
    lines = max(weight.shape[0] if holes.out == ALL else holes.out, weight[0].numel())
    assert holes.scope == "block" or int(holes.alive(projected).sum()) <= max(lines, density * weight.numel() + 1)


@given(weights().filter(lambda w: w.count_nonzero() == w.numel()), st.integers(1, 5), st.floats(0.05, 1))
def test_with_no_share_of_rows_it_is_the_blocks_of_one_column(weight: Tensor, out: int, density: float) -> None:
    weight = weight[: weight.shape[0] // out * out]  # blocks of equal height cost the same
    if len(weight):
        budget = kept_groups(density, weight.numel()) // out * out / weight.numel()
        expected = Block(out, 1, 1).mask(weight.square(), max(budget, 1e-9))
        assert torch.equal(BlockColumnRow(out, ALL, row_share=0).mask(weight.square(), density), expected)


@given(weights().filter(lambda w: w.count_nonzero() == w.numel()), st.floats(0.05, 1))
def test_with_all_the_share_it_is_the_rows(weight: Tensor, density: float) -> None:
    rows = max(kept_groups(density, weight.numel()) // weight[0].numel(), 1)
    expected = Block(1, ALL, ALL).mask(weight.square(), rows / weight.shape[0])
    assert torch.equal(BlockColumnRow(ALL, ALL, row_share=1).mask(weight.square(), density), expected)


@given(PATTERNS)
def test_a_name_stands_for_exactly_one_pattern(holes: BlockColumnRow) -> None:
    assert pattern(holes.name) == holes
    assert pattern(str(holes).upper()) == holes
    assert pickle.loads(pickle.dumps(holes)) == copy.deepcopy(holes) == holes
    assert not holes.exact
    assert holes.scope in holes.describe()


def test_short_names() -> None:
    assert pattern("bcr16x64") == BlockColumnRow(16, 64)
    assert pattern("bcrallx4r0.5@block") == BlockColumnRow(ALL, 4, 0.5, "block")
    for wrong in ("bcr", "bcr16", "bcr0x4", "bcr4x4r2", "bcr4x4@network", "bcr4x4@2:4"):
        with pytest.raises(PatternError):
            pattern(wrong)


@pytest.mark.parametrize("fields", [{"out": 0}, {"in_": 1.5}, {"row_share": 1.1}, {"row_share": -1}, {"scope": "all"}])
def test_a_malformed_pattern_is_refused(fields: dict) -> None:
    with pytest.raises(PatternError, match=r"BlockColumnRow\."):
        BlockColumnRow(**{"out": 4, "in_": 4, **fields})


def test_what_makes_no_sense_says_why() -> None:
    assert "needs a density" in pattern("bcr4x4").refusal(None)
    assert "kept fraction" in pattern("bcr4x4").refusal(1.5, (8, 8))
    assert "2 to 5 dimensions" in pattern("bcr4x4").refusal(0.5, (8,))
    assert "does not divide" in pattern("bcr4x4").refusal(0.5, (10, 4), Layout(parts=3))
    with pytest.raises(PatternError, match="NaN"):
        pattern("bcr2x2").mask(torch.full((4, 4), float("nan")), 0.5)
    with pytest.raises(PlanError, match="only groups of blocks"):
        ms.sparsity.global_magnitude(nn.Sequential(nn.Linear(8, 8)), "bcr4x4", 0.5, skip=())


def test_holds_counts_where_living_rows_and_columns_meet() -> None:
    weight = torch.zeros(4, 4)
    weight[0, 0] = weight[1, 1] = 1  # two rows and two columns of the first block meet in four weights
    assert int(pattern("bcr2x2").alive(weight).sum()) == 4
    assert pattern("bcr2x2").holds(weight, 4 / 16)
    assert not pattern("bcr2x2").holds(weight, 3 / 16)
    assert pattern("bcr2x2").holds(weight)
    assert pattern("bcr2x2@block").holds(weight, 1.0)
    assert not pattern("bcr2x2@block").holds(weight, 0.2)


def test_blocks_never_straddle_the_gates_of_a_recurrent_layer() -> None:
    model = nn.GRU(6, 5)
    plan = ms.Plan({"weight_hh_l0": ("bcr5x5r0.5@block", 0.3)})
    ms.prune(model, plan)
    rows = kept_groups(0.3**0.5, 5)
    assert [int(gate.any(1).sum()) for gate in (model.weight_hh_l0 != 0).split(5)] == [rows] * 3
    assert plan.verify(model).ok


@pytest.mark.parametrize("make", [ms.ADMM, ms.Gradual])
def test_methods_train_it_in_like_any_other_pattern(make) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    plan = ms.Plan({"0.weight": ("bcr4x6", 0.3)})
    pruner = make(model, optimizer, plan, steps=30)
    x, y = torch.randn(64, 12), torch.randint(0, 3, (64,))
    for _ in range(30):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    pruner.finish()
    assert plan.verify(model).ok
    assert 0.15 < (model[0].weight != 0).double().mean() <= 0.3


def test_a_plan_with_it_survives_its_file_and_a_network_its_compiler(tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 9, 24)).eval()
    plan = ms.Plan({"0.weight": ("bcr8x3", 0.3), "3.weight": Entry(BlockColumnRow(8, 36, 0.5), 0.1)})
    plan.save(tmp_path / "plan.yaml")
    assert ms.Plan.load(tmp_path / "plan.yaml") == plan
    ms.prune(model, plan)
    x = torch.randn(1, 6, 5, 5)
    torch.testing.assert_close(torch.as_tensor(ms.compile(model, x)(x)), model(x), rtol=1e-4, atol=1e-5)
