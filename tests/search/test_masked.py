from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from monstera.measure import Timing
from monstera.pruning import prune
from monstera.search import masked, measure_of
from monstera.sparsity import Plan
from monstera.zoo import digits_cnn


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_plans_are_compared_with_a_dense_network_even_where_the_model_has_holes_and_called_with_arrays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled, raced = [], {}

    def race(calls: dict[str, Any], **_: Any) -> dict[str, Timing]:
        raced.update(calls)
        return dict.fromkeys(calls, Timing((1.0, 1.0, 1.0), 1.0, 3))

    compile_ = masked.compile_
    monkeypatch.setattr(
        masked, "compile_", lambda model, *a, **how: compiled.append(model) or compile_(model, *a, **how)
    )
    monkeypatch.setattr(masked, "race", race)
    monkeypatch.setattr(masked, "Pace", lambda *_: None)
    model = digits_cnn().eval()
    prune(model, Plan({"conv2.weight": ("4x1", 0.5)}))
    measure = measure_of(model, torch.randn(2, 1, 8, 8))
    assert measure is not None
    measure(Plan({"linear.weight": ("4x1", 0.5)}))
    dense, sparse = (net.get_parameter("conv2.weight") for net in compiled)
    assert (dense != 0).all()
    assert torch.equal(sparse, model.get_parameter("conv2.weight"))
    assert all(isinstance(call.args[0], np.ndarray) for call in raced.values())


def test_what_this_machine_cannot_run_is_not_measured() -> None:
    assert measure_of(torch.nn.Conv2d(3, 4, 3).eval(), torch.zeros(1, 3, 8, 8), target="neon") is None
