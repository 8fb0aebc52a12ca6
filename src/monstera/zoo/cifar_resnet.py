"""The ResNets for CIFAR-10: 20, 32, 44, 56, ... layers with parameter-free shortcuts.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (2015), section 4.2, shortcut option A.
Parameter names are those of the checkpoints of akamaster/pytorch_resnet_cifar10.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 16


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut that subsamples and fills the new channels with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.new_channels = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride != 1 or self.new_channels:
            side = self.new_channels // 2
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, side, self.new_channels - side))
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


class CifarResNet(nn.Module):
    """`[N, 3, 32, 32]` to `[N, classes]`; `blocks` basic blocks in each of the three stages.

    The stages have `width`, twice and four times as many channels.
    """

    def __init__(self, blocks: int, classes: int = 10, width: int = WIDTH) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def cifar_resnet(depth: int, classes: int = 10, width: int = WIDTH) -> CifarResNet:
    """Build the CIFAR ResNet of `depth` layers, `width` channels in its first stage.

    Raises:
        ValueError: `depth` is not 6n + 2, or `width` is not positive.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"a CIFAR ResNet has 6n + 2 layers (8, 14, 20, 32, 44, 56, 110, ...), not {depth}")
    if width < 1:
        raise ValueError(f"width: expected at least 1 channel, got {width}")
    return CifarResNet(blocks, classes, width)


def resnet20(classes: int = 10, width: int = WIDTH) -> CifarResNet:
    """Build the 20-layer network: 0.27 M parameters, 41 M MACs at its published width."""
    return cifar_resnet(20, classes, width)


def resnet32(classes: int = 10) -> CifarResNet:
    """Build the 32-layer network: 0.46 M parameters, 69 M MACs."""
    return cifar_resnet(32, classes)


def resnet56(classes: int = 10) -> CifarResNet:
    """Build the 56-layer network: 0.85 M parameters, 126 M MACs."""
    return cifar_resnet(56, classes)


def load_cifar_resnet_state(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict out of a published checkpoint (`resnet20-12fca82f.th` and its like), without unpickling code.

    Raises:
        ValueError: the file holds no `state_dict`.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if "state_dict" not in checkpoint:
        raise ValueError(
            f"{path}: expected a checkpoint with the key 'state_dict', got the keys {sorted(checkpoint)[:8]}"
        )
    return {name.removeprefix("module."): value for name, value in checkpoint["state_dict"].items()}


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
