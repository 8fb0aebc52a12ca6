"""VGG-16 with and without batch norm, with torchvision's parameter names and initial weights.

Source: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2014), net D.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NET_D = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """`[N, 3, H, W]` to `[N, classes]`; after each stage of 3x3 convolutions the picture is halved by a max pool."""

    def __init__(self, stages: tuple[tuple[int, ...], ...], batch_norm: bool, classes: int) -> None:
        super().__init__()
        self.features = _features(stages, batch_norm)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(stages[-1][-1] * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, classes),
        )
        for module in self.modules():
            _initialise(module)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def vgg16(classes: int = 1000) -> VGG:
    """Build VGG-16: 138 M parameters, 15.5 G MACs at 224x224."""
    return VGG(NET_D, False, classes)


def vgg16_bn(classes: int = 1000) -> VGG:
    """Build VGG-16 with a batch norm after every convolution."""
    return VGG(NET_D, True, classes)


def _features(stages: tuple[tuple[int, ...], ...], batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 3
    for stage in stages:
        for outputs in stage:
            layers.append(nn.Conv2d(inputs, outputs, 3, padding=1))
            layers += [nn.BatchNorm2d(outputs)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
