"""R(2+1)D-18 for clips, with torchvision's parameter names and initial weights.

Source: Tran, Wang, Torresani, Ray, LeCun, Paluri, "A Closer Look at Spatiotemporal Convolutions for Action Recognition"
(2018), section 3.5. As torchvision, both convolutions of a block have the width in between of the first one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """Two factored 3x3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        # As many parameters as the 3x3x3 convolution that the pair stands for.
        between = (inputs * outputs * 27) // (inputs * 9 + outputs * 3)
        self.conv1 = nn.Sequential(
            _factored(inputs, between, outputs, stride), nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(_factored(outputs, between, outputs, 1), nn.BatchNorm3d(outputs))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


class R2Plus1D(nn.Module):
    """`[N, 3, T, H, W]` to `[N, classes]`; `blocks` counts the blocks of the four stages."""

    def __init__(self, blocks: tuple[int, int, int, int], classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _across_space(3, 45, 7, 2),
            nn.BatchNorm3d(45),
            nn.ReLU(inplace=True),
            _along_time(45, WIDTHS[0], 1),
            nn.BatchNorm3d(WIDTHS[0]),
            nn.ReLU(inplace=True),
        )
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks[0], 1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks[1], 2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks[2], 2)
        self.layer4 = _stage(WIDTHS[2], WIDTHS[3], blocks[3], 2)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(WIDTHS[3], classes)
        for module in self.modules():
            _initialise(module)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def r2plus1d_18(classes: int = 400) -> R2Plus1D:
    """Build R(2+1)D-18: 31.5 M parameters with Kinetics' 400 classes, 40.5 G MACs for 16 frames of 112x112."""
    return R2Plus1D((2, 2, 2, 2), classes)


def _across_space(inputs: int, outputs: int, size: int, stride: int) -> nn.Conv3d:
    half = size // 2
    return nn.Conv3d(inputs, outputs, (1, size, size), (1, stride, stride), padding=(0, half, half), bias=False)


def _along_time(inputs: int, outputs: int, stride: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, (3, 1, 1), (stride, 1, 1), padding=(1, 0, 0), bias=False)


def _factored(inputs: int, between: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _across_space(inputs, between, 3, stride),
        nn.BatchNorm3d(between),
        nn.ReLU(inplace=True),
        _along_time(between, outputs, stride),
    )


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Block(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(Block(inputs, outputs, stride), *rest)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)
