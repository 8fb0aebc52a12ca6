from __future__ import annotations

import copy

import pytest
import torch

from monstera.search import measure_of
from monstera.sparsity import Plan
from monstera.zoo import digits_cnn


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    from monstera.search import masked

    monkeypatch.setattr(masked, "ROUND_S", 0.001)


@pytest.mark.usefixtures("_hasty")
def test_plans_are_measured_on_copies_beside_the_dense_network() -> None:
    torch.manual_seed(0)
    model = digits_cnn(width=64).eval()
    before = copy.deepcopy(model.state_dict())
    measure = measure_of(model, {"x": torch.randn(4, 1, 8, 8)})
    assert measure is not None
    sparse = measure(Plan.uniform(model, "4x1", 0.05))
    assert 0 < sparse.ms < sparse.dense_ms
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_this_machine_cannot_run_is_not_measured() -> None:
    assert measure_of(torch.nn.Conv2d(3, 4, 3).eval(), torch.zeros(1, 3, 8, 8), target="neon") is None
