from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monstera.sparsity import SCHEDULES, Constant, Cosine, Cubic, Linear, OneCycle, Schedule, schedule

RAMPS = st.sampled_from([Linear, Cubic, Cosine, OneCycle])
STEPS = st.tuples(st.integers(0, 500), st.integers(0, 500)).map(sorted)
VALUES = st.floats(-10, 10)


@given(RAMPS, VALUES, VALUES, STEPS)
def test_a_ramp_is_flat_outside_its_steps_and_meets_both_values_exactly(ramp, start, end, steps) -> None:
    made = ramp(start, end, *steps)
    assert isinstance(made, Schedule)
    if steps[0] < steps[1]:
        assert made(0) == made(steps[0]) == start
    assert made(steps[1]) == made(steps[1] + 1000) == end


@given(RAMPS, STEPS)
def test_a_ramp_never_turns_back(ramp, steps) -> None:
    values = [ramp(1.0, 0.1, *steps)(step) for step in range(steps[0], steps[1] + 1)]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(values))


def test_known_points_of_every_shape() -> None:
    steps = {"start_value": 1.0, "end_value": 0.2, "start_step": 10, "end_step": 110}
    assert Linear(**steps)(35) == pytest.approx(0.8)
    assert Cubic(**steps)(60) == pytest.approx(0.2 + 0.8 * 0.5**3)
    assert Cosine(**steps)(35) == pytest.approx(1 - 0.8 * (1 - math.sqrt(0.5)) / 2)
    assert Constant(0.3)(10**9) == 0.3

    def published(t: float) -> float:
        return (1 + math.exp(-14 + 5)) / (1 + math.exp(-14 * t + 5))

    rescaled = (published(0.4) - published(0)) / (1 - published(0))
    assert OneCycle(**steps)(50) == pytest.approx(1 - 0.8 * rescaled)


@pytest.mark.parametrize(
    "fields",
    [(1, 0, 5, 4), (1, 0, -1, 4), (float("nan"), 0, 0, 4), (1, float("inf"), 0, 4)],
)
def test_steps_out_of_order_and_values_that_are_not_finite_are_refused(fields) -> None:
    with pytest.raises(ValueError, match="a schedule needs"):
        Cubic(*fields)


def test_a_one_cycle_that_would_not_rise_is_refused() -> None:
    with pytest.raises(ValueError, match="steepness"):
        OneCycle(1, 0, 0, 10, steepness=0)


def test_schedules_are_found_by_name_and_an_unknown_name_lists_the_known() -> None:
    assert schedule("constant", value=0.5) == Constant(0.5)
    for name in SCHEDULES.keys() - {"constant"}:
        assert schedule(name, start_value=1, end_value=0, start_step=0, end_step=9)(9) == 0
    with pytest.raises(ValueError, match="cubic"):
        schedule("cubc")
