"""Weights as Hypothesis draws them, for the laws of every pattern."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

# Of linear layers and of convolutions over one to three dimensions.
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda head: st.lists(st.integers(1, 3), max_size=3).map(lambda kernel: (*head, *kernel))
)
DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


@st.composite
def weights(draw: st.DrawFn, shapes: st.SearchStrategy[tuple[int, ...]] = SHAPES, largest: int = 2) -> Tensor:
    """Whole numbers, with many ties, zeros and equal magnitudes (there selection goes wrong), or others with none."""
    shape = draw(shapes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    if draw(st.booleans()):
        return torch.randint(-largest, largest + 1, shape, generator=generator).to(draw(DTYPES))
    return torch.randn(shape, generator=generator).to(draw(DTYPES))
