"""A small engine with two inputs, one of them by keyword, and a structured answer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import monstera as ms


class TwoInputs(nn.Module):
    """Image and features in; a dict with a tuple, a constant and a tensor out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.linear = nn.Linear(5, 8)

    def forward(self, image, *, features):
        x = self.conv(image).relu()
        scale = self.linear(features).sigmoid()
        return {"maps": (x, x * scale[:, :, None, None]), "none": None, "scale": scale}


@pytest.fixture(scope="session")
def model() -> TwoInputs:
    torch.manual_seed(0)
    return TwoInputs().eval()


@pytest.fixture(scope="session")
def example() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.randn(2, 3, 9, 7, generator=generator), "features": torch.randn(2, 5, generator=generator)}


@pytest.fixture(scope="session")
def engine(model, example) -> ms.Engine:
    return ms.compile(model, example)


@pytest.fixture(scope="session")
def artifact(engine, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("artifact") / "net.monstera"
    engine.save(path)
    return path.read_bytes()
