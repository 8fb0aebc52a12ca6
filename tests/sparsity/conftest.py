"""Models and slow references that several of these tests share."""

from __future__ import annotations

import pytest
import torch
from torch import nn


class Convnet(nn.Module):
    """A stem, an ordinary, a grouped, a depthwise and a pointwise convolution, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Sequential(
            nn.Conv2d(8, 16, 3),
            nn.BatchNorm2d(16),
            nn.Conv2d(16, 12, 3, groups=2),
            nn.Conv2d(12, 12, 3, groups=12),
            nn.Conv2d(12, 24, 1),
        )
        self.neck = nn.Linear(24, 16)
        self.head = nn.Linear(16, 10)


class Tied(nn.Module):
    """An embedding table that the last linear layer shares."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.hidden = nn.Linear(8, 8)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.table.weight


@pytest.fixture
def convnet() -> Convnet:
    torch.manual_seed(0)
    return Convnet()


@pytest.fixture
def tied() -> Tied:
    torch.manual_seed(0)
    return Tied()
