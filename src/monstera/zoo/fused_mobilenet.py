"""A MobileNetV2-like network for small pictures, of dense 3x3 blocks that a search may replace, thin out or drop.

Sources: Sandler et al., "MobileNetV2" (2018), for blocks, names and head; Tan and Le, "EfficientNetV2" (2021), section
3.3, for expansion and depthwise filter fused to one dense 3x3 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

ActivationName: TypeAlias = Literal["silu", "relu6"]
_ACTIVATIONS = {"silu": nn.SiLU, "relu6": nn.ReLU6}


class FusedBlock(nn.Module):
    """A dense 3x3 convolution, batch norm and activation, and a shortcut where input and output have one shape."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: ActivationName) -> None:
        super().__init__()
        self.conv = _conv_bn(inputs, outputs, 3, stride, activation)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class FusedMobileNet(nn.Module):
    """`[N, channels, H, W]` to `[N, classes]`; stages of `width`, twice and four times as many channels, and so on."""

    def __init__(
        self, channels: int, classes: int, width: int, blocks: Sequence[int], activation: ActivationName
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn(channels, width, 3, 2, activation)]
        inputs = width
        for stage, count in enumerate(blocks):
            for index in range(count):
                outputs = width * 2**stage
                layers.append(FusedBlock(inputs, outputs, 2 if stage and not index else 1, activation))
                inputs = outputs
        head = 2 * inputs
        self.features = nn.Sequential(*layers, _conv_bn(inputs, head, 1, 1, activation))
        self.classifier = nn.Linear(head, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


def fused_mobilenet(
    channels: int = 1,
    classes: int = 10,
    width: int = 16,
    blocks: Sequence[int] = (2, 3, 3),
    activation: ActivationName = "silu",
) -> FusedMobileNet:
    """Build the network: 3.8 M MACs on a grey picture of 28x28 as it is by default.

    Args:
        channels: of the pictures.
        width: channels of the stem and the first stage.
        blocks: of each stage; every stage but the first halves the picture, as the stem does.

    Raises:
        ValueError: no stage, a number below 1, or an unknown activation.
    """
    if not blocks or min(channels, classes, width, *blocks) < 1:
        raise ValueError(
            f"expected stages of at least one block, channel and class, got channels={channels}, classes={classes}, "
            f"width={width}, blocks={list(blocks)}"
        )
    if activation not in _ACTIVATIONS:
        raise ValueError(f"no activation is called {activation!r}; known: {', '.join(_ACTIVATIONS)}")
    return FusedMobileNet(channels, classes, width, tuple(blocks), activation)


def _conv_bn(inputs: int, outputs: int, size: int, stride: int, activation: ActivationName) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), _ACTIVATIONS[activation](inplace=True))
