"""The estimate without data by hand, against the scores it comes from.

Source: J. Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021, arXiv 2010.07611: the score
of a weight is its square by the sum of all squares in the layer that are not less.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from monstera.search import by_magnitude, losses_of
from monstera.sparsity import Block, find_view


def test_each_weight_that_goes_adds_the_logarithm_of_one_less_its_score() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    bend = by_magnitude(model, ["0.weight"])["0.weight"]
    found = losses_of(find_view(model, "0.weight"), Block(), [0.75, 0.5, 0.25], bend)
    # squares 1, 4, 9, 16, of 30
    scores = [1 / 30, 4 / 29, 9 / 25]
    expected = [-sum(math.log(1 - score) for score in scores[: gone + 1]) for gone in range(3)]
    assert found == pytest.approx(expected)
    assert found == pytest.approx([math.log(30 / 29), math.log(30 / 25), math.log(30 / 16)])
