"""LeNet-5, small enough to compare methods of pruning over many seeds.

Source: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition" (1998), figure 2, in
the form in use today: ReLU, max pooling, every map of S2 connected to every map of C3, and a linear output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LeNet5(nn.Module):
    """`[N, 1, 28, 28]` to `[N, classes]`: 6, 16 and 120 filters of 5x5, then 84 units; C5 covers all of its input."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(F.relu(self.fc2(x)))


def lenet5(classes: int = 10) -> LeNet5:
    """Build LeNet-5: 62 k parameters, 0.42 M MACs.

    The wider network of that name in Caffe (20 and 50 filters, 500 units, 431 k parameters), which SSL and ADMM report
    on, takes twice as long to train.
    """
    return LeNet5(classes)
