"""Whole multiples of a scale: levels, zeros, exact products, and how far the scale is from the best there is."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from monstera.sparsity import Layout, PatternError, Quantize, pattern
from monstera.sparsity.ties import snapped
from sparsity.drawing import weights

PATTERNS = st.builds(Quantize, st.integers(2, 8), st.sampled_from(["channel", "layer"]))


@st.composite
def scaled(draw: st.DrawFn) -> Tensor:
    """Weights of any scale, dead rows among them."""
    weight = draw(weights(largest=9)) * 10.0 ** draw(st.integers(-2, 2))
    dead = torch.rand(len(weight), generator=torch.Generator().manual_seed(draw(st.integers(0, 2**20)))) < 0.2
    weight[dead] = 0
    return weight


def rows_of(quantize: Quantize, weight: Tensor) -> Tensor:
    return weight.flatten(1) if quantize.scope == "channel" else weight.reshape(1, -1)


def least_error(row: Tensor, most: int) -> float:
    """The error of the best scale of all: levels change at w / (c - 1/2), so every assignment is a prefix of these."""
    row = row.double().abs()
    counts = torch.arange(1, most + 1, dtype=torch.float64)
    order = (row.unsqueeze(1) / (counts - 0.5)).flatten().argsort(descending=True)
    products = row.unsqueeze(1).expand(-1, most).flatten()[order].cumsum(0)
    squares = (2 * counts - 1).expand(len(row), most).flatten()[order].cumsum(0)
    return float(row.square().sum() - (products.square() / squares).max())


@settings(max_examples=30)
@given(PATTERNS, scaled())
def test_a_projection_has_whole_multiples_and_is_idempotent(quantize: Quantize, weight: Tensor) -> None:
    projected = quantize.project(weight)
    assert (projected.shape, projected.dtype) == (weight.shape, weight.dtype)
    assert quantize.holds(projected)
    assert torch.equal(quantize.project(projected), projected)
    assert not (projected * weight.sign() < 0).any()
    assert not projected[weight == 0].any(), "zero is a level, and stays"
    for row in rows_of(quantize, projected.double()):
        levels = row.abs().unique()
        assert len(levels[levels > 0]) <= quantize.most


@settings(max_examples=30)
@given(PATTERNS, scaled(), st.floats(0.1, 0.9))
def test_ties_hold_levels_while_a_step_moves_the_scale(quantize: Quantize, weight: Tensor, step: float) -> None:
    ties = quantize.ties(weight, torch.ones_like(weight, dtype=torch.bool))
    moved = ties.nearest(ties.nearest(weight) * (1 + step))
    assert quantize.holds(moved)
    assert bool(((moved == 0) | (ties.factor != 0)).all())


@given(PATTERNS, scaled().filter(lambda w: w.dtype in (torch.float32, torch.float64)))
@settings(max_examples=30)
def test_no_scale_that_covers_the_largest_weight_is_better(quantize: Quantize, weight: Tensor) -> None:
    error = (weight - quantize.project(weight)).double().square()
    for row, found in zip(rows_of(quantize, weight), rows_of(quantize, error), strict=True):
        scale = row.double().abs().max() / quantize.most
        covering = (row.double() - (row.double() / scale).round() * scale).square().sum() if scale > 0 else 0
        assert float(found.sum()) <= float(covering) * (1 + 1e-5) + 1e-9 * float(row.double().square().sum())


@given(st.integers(2, 8), st.integers(1, 60), st.sampled_from([0.75, 1.0, 3e-5, 1234.0]), st.integers(0, 2**20))
@settings(max_examples=40)
def test_a_weight_that_obeys_is_its_own_projection(bits: int, columns: int, scale: float, seed: int) -> None:
    # Levels that need not reach the largest, so that the scale that is there need not be one of those tried.
    generator = torch.Generator().manual_seed(seed)
    quantize = Quantize(bits)
    most = int(torch.randint(1, quantize.most + 1, (), generator=generator))
    scales = scale * torch.randint(1, 100, (3, 1), generator=generator)
    weight = torch.randint(-most, most + 1, (3, columns), generator=generator) * snapped_scales(scales)
    assert quantize.holds(weight)
    assert torch.equal(quantize.project(weight), weight)


def snapped_scales(scales: Tensor) -> Tensor:
    return snapped(scales.double(), torch.full_like(scales, 127.0, dtype=torch.float64), torch.float32).float()


# 26 and 23 times 11 / 8192 in all 8 bits, but not 25 times: a scale that no weights can be tied to.
@example(Quantize(6), torch.tensor([[143 / 4096, 253 / 8192]], dtype=torch.bfloat16))
@given(PATTERNS, scaled())
@settings(max_examples=40)
def test_every_weight_is_at_the_nearest_level_of_the_scale_that_it_has_in_its_dtype(
    quantize: Quantize, weight: Tensor
) -> None:
    ties = quantize.ties(weight, torch.ones_like(weight, dtype=torch.bool))
    parts = weight.double(), ties.nearest(weight).double(), ties.factor.double()
    for row, found, levels in zip(*(rows_of(quantize, part) for part in parts), strict=True):
        scale = found.abs().max() / levels.abs().max().clamp_min(1)
        assert torch.equal(found, levels * scale)
        inside = levels.abs() < quantize.most
        # The scale is fitted once more behind the levels: a weight half-way between two may be nearer to the other.
        assert float((row - found)[inside].abs().max() if inside.any() else 0) <= 0.6 * float(scale)


def test_the_gap_to_the_best_scale_of_all_is_small(capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    worst: dict[int, float] = {}
    for bits in (2, 3, 4, 8):
        quantize, gaps = Quantize(bits), []
        weight = torch.randn(24, 144, generator=generator)
        errors = (weight - quantize.project(weight)).double().square().sum(1)
        for row, error in zip(weight, errors.tolist(), strict=True):
            best = least_error(row, quantize.most)
            assert error >= best * (1 - 1e-5)
            gaps.append(error / best - 1)
        worst[bits] = max(gaps)
    with capsys.disabled():
        print("\nworst excess over the best scale, 24 rows of 144:", {b: f"{gap:.1%}" for b, gap in worst.items()})
    assert worst[2] < 0.01
    assert worst[4] < 0.05


@pytest.mark.parametrize("layout", [Layout(parts=3), Layout(groups=2), Layout(transposed=True)])
def test_channels_have_scales_of_their_own_in_every_layout(layout: Layout) -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    projected = Quantize(3).project(weight, None, layout)
    assert Quantize(3).holds(projected, None, layout)
    for row in layout.to_canonical(projected).flatten(0, 1):
        assert len(row.abs().unique()) <= 4


def test_one_changed_bit_is_found() -> None:
    weight = Quantize(4).project(torch.randn(5, 40, generator=torch.Generator().manual_seed(1)))
    assert Quantize(4).holds(weight)
    weight[2, 3] = torch.nextafter(weight[2, 3], torch.tensor(9.0))
    assert not Quantize(4).holds(weight)


def test_worked_by_hand() -> None:
    # Ternary: of the largest one, two, three ... weights, (sum)^2 / n is most at three: scale 12 / 3 = 4.
    weight = torch.tensor([[4.0, -3.5, 0.25], [0.5, 4.5, -1.0]])
    assert Quantize(2, "layer").project(weight).tolist() == [[4.0, -4.0, 0.0], [0.0, 4.0, 0.0]]
    # Levels 1, 2 and 3 of 0.5 are there already.
    already = torch.tensor([[0.5, -1.5, 1.0, 0.0]])
    assert torch.equal(Quantize(3).project(already), already)


@given(PATTERNS)
def test_a_name_stands_for_exactly_one_pattern(quantize: Quantize) -> None:
    assert pattern(quantize.name) == quantize
    assert pickle.loads(pickle.dumps(quantize)) == copy.deepcopy(quantize) == quantize


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantize(1), "from 2 to 8"),
        (lambda: pattern("int16"), "from 2 to 8"),
        (lambda: Quantize(4, "filter"), "channel.*layer"),  # pyright: ignore[reportArgumentType]
        (lambda: Quantize(4).project(torch.tensor([[1.0, torch.nan]])), "NaN"),
        (lambda: Quantize(4).project(torch.tensor([[1.0, torch.inf]])), "infinite"),
        (lambda: Quantize(4).project(torch.ones(2, 2), 0.5), "'4x1&int4'"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        make()
