from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from monstera.sparsity import Plan, PlanError, erk, erk_densities, global_magnitude

SHAPES = st.dictionaries(
    st.text(min_size=1, max_size=3),
    st.lists(st.integers(1, 64), min_size=2, max_size=4).map(tuple),
    min_size=1,
    max_size=8,
)


@given(SHAPES, st.floats(0.001, 1), st.floats(0, 2))
def test_erk_meets_its_budget_and_stays_within_0_and_1(shapes: dict, density: float, power: float) -> None:
    shares = erk_densities(shapes, density, power)
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    assert sum(shares[name] * size[name] for name in shapes) == pytest.approx(density * sum(size.values()))
    assert all(0 < share <= 1 for share in shares.values())


@given(SHAPES, st.floats(0.001, 1))
def test_erk_densities_below_1_are_proportional_to_sum_over_product(shapes: dict, density: float) -> None:
    shares = erk_densities(shapes, density)
    below = [share * math.prod(shapes[n]) / sum(shapes[n]) for n, share in shares.items() if share < 1]
    assert below == pytest.approx([below[0]] * len(below) if below else [])


def test_erk_densities_of_two_known_layers() -> None:
    # raw: 26 / 900 and 20 / 100 on 900 and 100 weights; 0.1 * 1000 = eps * (26 + 20)
    shares = erk_densities({"conv": (10, 10, 3, 3), "linear": (10, 10)}, 0.1)
    assert shares == pytest.approx({"conv": 100 / 46 * 26 / 900, "linear": 100 / 46 * 20 / 100})


def test_erk_plans_the_weights_that_uniform_would_take(convnet) -> None:
    plan = erk(convnet, 0.3, "4x1")
    assert list(plan) == list(Plan.uniform(convnet, "4x1", 0.3))
    assert plan["body.0.weight"].density < plan["body.4.weight"].density


def test_global_magnitude_takes_more_from_layers_with_small_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16))
    with torch.no_grad():
        model[0].weight.mul_(10)
        model[1].weight.mul_(1e-3)
    plan = global_magnitude(model, "4x1", 0.5, skip=())
    densities = [entry.density for entry in plan.values()]
    assert densities[0] > 0.9
    assert densities[1] == 1 / 64, "one group is given back"
    assert all(entry.pattern.scope == "layer" for entry in plan.values())
    assert sum(densities) * 64 == pytest.approx(0.5 * 3 * 64 + 1)


def test_patterns_with_a_density_of_their_own_cannot_be_allocated(convnet) -> None:
    for pattern in ("2:4", "layer"):
        with pytest.raises(PlanError, match="density of its own"):
            global_magnitude(convnet, pattern, 0.5)
        with pytest.raises(PlanError, match="density of its own"):
            erk(convnet, 0.5, pattern)
    with pytest.raises(PlanError, match="kept fraction"):
        erk(convnet, 0)
