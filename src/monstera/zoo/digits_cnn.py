"""A small plain network for scikit-learn's 8x8 digits, quick enough to train inside a test."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DigitsCNN(nn.Module):
    """`[N, 1, 8, 8]` to `[N, classes]`: three 3x3 convolutions of `width`, `width` and `2 width` channels."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * width)
        self.linear = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def digits_cnn(width: int = 32, classes: int = 10) -> DigitsCNN:
    """Build the digits network; at width 32 it has 29 k parameters and 0.9 M MACs."""
    return DigitsCNN(width, classes)
