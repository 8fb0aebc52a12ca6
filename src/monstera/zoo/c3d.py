"""C3D for clips of 16 pictures, with the parameter names of its PyTorch ports.

Source: Tran, Bourdev, Fergus, Torresani, Paluri, "Learning Spatiotemporal Features with 3D Convolutional Networks"
(2015), figure 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class C3D(nn.Module):
    """`[N, 3, 16, 112, 112]` (frames, height, width) to `[N, classes]`: eight 3x3x3 convolutions and five pools."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64)
        # The first pool leaves time alone, so that frames are not merged too early.
        self.pool1 = nn.MaxPool3d((1, 2, 2))
        self.conv2 = _conv(64, 128)
        self.pool2 = nn.MaxPool3d(2)
        self.conv3a = _conv(128, 256)
        self.conv3b = _conv(256, 256)
        self.pool3 = nn.MaxPool3d(2)
        self.conv4a = _conv(256, 512)
        self.conv4b = _conv(512, 512)
        self.pool4 = nn.MaxPool3d(2)
        self.conv5a = _conv(512, 512)
        self.conv5b = _conv(512, 512)
        self.pool5 = nn.MaxPool3d(2, padding=(0, 1, 1))
        self.fc6 = nn.Linear(8192, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)
        self.dropout = nn.Dropout()
        self.relu = nn.ReLU(inplace=True)
        for module in self.modules():
            _initialise(module)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu(self.conv1(x)))
        x = self.pool2(self.relu(self.conv2(x)))
        x = self.pool3(self.relu(self.conv3b(self.relu(self.conv3a(x)))))
        x = self.pool4(self.relu(self.conv4b(self.relu(self.conv4a(x)))))
        x = self.pool5(self.relu(self.conv5b(self.relu(self.conv5a(x)))))
        x = self.dropout(self.relu(self.fc6(torch.flatten(x, 1))))
        x = self.dropout(self.relu(self.fc7(x)))
        return self.fc8(x)


def c3d(classes: int = 487) -> C3D:
    """Build C3D: 80 M parameters with Sports-1M's 487 classes, 38.6 G MACs for 16 frames of 112x112."""
    return C3D(classes)


def _conv(inputs: int, outputs: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, 3, padding=1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    if isinstance(module, nn.Conv3d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
