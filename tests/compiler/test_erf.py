"""The error function of kernels, against the double precision of torch."""

import math

import pytest
import torch
from torch.nn import functional as F

import monstera as ms
from compiler.functions import Operation


@pytest.mark.parametrize("target", ["native", "avx2"])
def test_erf_is_as_exact_as_fp32_sums_allow_and_never_beyond_one(target: str) -> None:
    x = torch.cat([torch.linspace(-6, 6, 200_003), torch.logspace(-30, 0, 500)])
    got = ms.compile(Operation(torch.erf).eval(), x, target=target, tune="none")(x)
    assert (got.double() - torch.erf(x.double())).abs().max() < 2e-7
    assert got.abs().max() <= 1


def test_erf_of_what_is_no_number_or_infinite_is_what_it_should_be() -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0] + [1.0] * 20)
    got = ms.compile(Operation(torch.erf).eval(), x, tune="none")(x)
    assert got[0].isnan()
    assert got[1:5].tolist() == pytest.approx([1, -1, 0, 0], abs=2e-7)


def test_gelu_is_exact_to_the_last_bits_of_its_argument() -> None:
    x = torch.linspace(-8, 8, 100_003)
    got = ms.compile(Operation(F.gelu).eval(), x, tune="none")(x)
    error = (got.double() - F.gelu(x.double())).abs()
    assert (error / x.double().abs().clamp(min=1)).max() < 2e-7
