"""SqueezeNet 1.0 with the parameter names of the published pruned weights ("Deep Compression").

Source: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size" (2016);
the weights: Han et al., "Deep Compression" (2016). How we differ from torchvision: names as in the authors' own file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

# Squeezed and expanded channels of fire2 to fire9.
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
_POOLS_BEFORE = ("fire2", "fire5", "fire9")


class Fire(nn.Module):
    """Few channels, then many: half of them by 1x1 filters, half by 3x3."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze1x1(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], 1).relu()


class SqueezeNet(nn.Module):
    """`[N, 3, H, W]` to `[N, classes]`. The published weights take BGR in 0..255 less the mean, 227x227."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        channels = 96
        for i, (squeezed, expanded) in enumerate(_FIRES, 2):
            self.add_module(f"fire{i}", Fire(channels, squeezed, expanded))
            channels = 2 * expanded
        self.dropout = nn.Dropout(0.5)
        self.conv10 = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu()
        for name, module in self.named_children():
            if isinstance(module, Fire):
                x = module(self.pool(x) if name in _POOLS_BEFORE else x)
        return self.conv10(self.dropout(x)).relu().mean((2, 3))


def squeezenet1_0(classes: int = 1000) -> SqueezeNet:
    """Build SqueezeNet 1.0: 1.25 M parameters."""
    return SqueezeNet(classes)


def load_deep_compression_state(path: str | Path) -> dict[str, Tensor]:
    """Read the published pruned weights as decoded into one array for each parameter (`.npz`), without unpickling.

    Raises:
        ValueError: the file holds other parameters than SqueezeNet 1.0 has.
    """
    with np.load(path, allow_pickle=False) as file:
        state = {name: torch.from_numpy(file[name]) for name in file.files}
    with torch.device("meta"):
        expected = squeezenet1_0().state_dict()
    if wrong := sorted(state.keys() ^ expected.keys()):
        raise ValueError(f"{path}: expected the parameters of SqueezeNet 1.0, which differ in {wrong[:4]}")
    return state
