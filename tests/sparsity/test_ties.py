"""Ties: the nearest tied weight, exact products, and what of a gradient moves tied weights together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from devices import ON_GPU
from monstera.sparsity import PatternError, Ties
from monstera.sparsity.ties import Reduction, runs_of, scattered, segmented, snapped
from sparsity.drawing import DTYPES


@st.composite
def tied(draw: st.DrawFn, most: int = 127) -> tuple[Ties, Tensor]:
    """Ties of a few groups, some of them all dead, and weights that obey them only by chance."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    shape, groups = (draw(st.integers(1, 5)), draw(st.integers(1, 7))), draw(st.integers(1, 5))
    group = torch.randint(0, groups, shape, generator=generator)
    factor = torch.randint(-most, most + 1, shape, generator=generator, dtype=torch.int8)
    weight = torch.randn(shape, generator=generator) * 10.0 ** draw(st.integers(-3, 2))
    return Ties(group, factor), weight.to(draw(DTYPES))


@given(tied())
def test_the_nearest_tied_weight_is_that_of_least_squares(case: tuple[Ties, Tensor]) -> None:
    ties, weight = case
    nearest = ties.nearest(weight)
    assert (nearest.shape, nearest.dtype) == (weight.shape, weight.dtype)
    # Rounding of a scalar whose largest multiple fills the mantissa: half a unit of that product.
    for number in ties.group.unique():
        here = ties.group == number
        factor, wide = ties.factor[here].double(), weight[here].double()
        if not factor.any():
            assert not nearest[here].any()
            continue
        best = (factor @ wide) / (factor @ factor)
        slack = torch.finfo(weight.dtype).eps * float(best.abs() * factor.abs().max())
        assert float((nearest[here].double() / factor - best)[factor != 0].abs().max()) <= slack + 1e-12


@given(tied())
def test_every_product_is_exact_and_tied_weights_come_back_to_the_bit(case: tuple[Ties, Tensor]) -> None:
    ties, weight = case
    nearest = ties.nearest(weight)
    assert torch.equal(ties.nearest(nearest), nearest)
    assert not torch.signbit(nearest[nearest == 0]).any(), "minus zero is no hole"
    if weight.dtype == torch.float64:
        return
    for number in ties.group.unique():
        here = (ties.group == number) & (ties.factor != 0)
        quotients = nearest[here].double() / ties.factor[here].double()
        assert quotients.numel() == 0 or bool((quotients == quotients[0]).all()), "one scalar gives them all"


@given(tied(), st.sampled_from([-2.0, 0.5]))
def test_a_part_is_what_moves_with_the_scalars_and_nothing_else(case: tuple[Ties, Tensor], along: float) -> None:
    ties, grad = case[0], case[1].double()
    part = ties.part(grad)
    factor = ties.factor.double()
    assert torch.allclose(ties.part(part), part, atol=1e-9)
    # What is left is orthogonal to every direction in which the weights may move.
    rest = torch.zeros(int(ties.group.max()) + 1, dtype=torch.float64)
    rest.index_add_(0, ties.group.flatten(), (factor * (grad - part)).flatten())
    assert float(rest.abs().max()) <= 1e-9 * (1 + float((factor * grad).abs().sum()))
    assert torch.allclose(ties.part(factor * along), factor * along)


def test_in_a_block_of_one_magnitude_a_part_is_the_sign_times_the_mean_of_sign_times_value() -> None:
    ties = Ties(
        torch.tensor([[0, 0, 0, 0], [1, 2, 2, 2]]), torch.tensor([[1, -1, 1, -1], [1, -1, -1, 0]]).to(torch.int8)
    )
    grad = torch.tensor([[4.0, 2.0, -1.0, 3.0], [7.0, 1.0, 3.0, 9.0]])
    # (4 - 2 - 1 - 3) / 4 = -0.5; the lone weight is free; (-1 - 3) / 2 = -2, and what is dead stays so.
    assert ties.part(grad).tolist() == [[-0.5, 0.5, -0.5, 0.5], [7.0, 2.0, 2.0, 0.0]]
    assert ties.part_of_squares(grad.square()).tolist() == [[7.5, 7.5, 7.5, 7.5], [49.0, 5.0, 5.0, 0.0]]


@given(st.floats(1e-6, 1e3), st.integers(1, 127), st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_a_snapped_scalar_is_near_and_has_exact_multiples(scalar: float, largest: int, dtype: torch.dtype) -> None:
    scale = snapped(torch.tensor([scalar], dtype=torch.float64), torch.tensor([float(largest)]).double(), dtype)
    multiples = torch.arange(largest + 1, dtype=torch.float64) * scale
    subnormal = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert abs(float(scale) - scalar) <= max(scalar * largest * torch.finfo(dtype).eps, subnormal)
    if float(multiples.max()) <= torch.finfo(dtype).max:
        assert torch.equal(multiples.to(dtype).double(), multiples)


@given(st.integers(0, 2**20), st.lists(st.integers(0, 9), min_size=1, max_size=300), st.sampled_from(["sum", "max"]))
def test_groups_that_are_brought_together_have_the_bits_of_those_that_are_added_up_as_they_stand(
    seed: int, groups: list[int], how: Reduction
) -> None:
    group = torch.tensor(groups)
    values = torch.randn(len(group), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = torch.zeros(int(group.max()) + 1, dtype=torch.float64)
    for number, value in zip(groups, values, strict=True):
        expected[number] = expected[number] + value if how == "sum" else expected[number].maximum(value)
    assert torch.equal(scattered(values, group, how), expected)
    assert torch.equal(segmented(values, runs_of(group), how), expected)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_equal_input_gives_equal_bits_each_time(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(0, 50, (512, 512), generator=generator)
    factor = torch.randint(-7, 8, group.shape, generator=generator, dtype=torch.int8)
    weight = torch.randn(group.shape, generator=generator).to(device)
    ties = Ties(group, factor).to(torch.device(device))
    nearest, part = ties.nearest(weight), ties.part(weight.double())
    for _ in range(5):
        assert torch.equal(ties.nearest(weight), nearest)
        assert torch.equal(ties.part(weight.double()), part)


def test_groups_and_factors_of_different_shapes_are_refused() -> None:
    with pytest.raises(PatternError, match="of one shape"):
        Ties(torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int8))
