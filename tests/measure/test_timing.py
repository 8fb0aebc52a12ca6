import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monstera.measure import Pace, Timing, race, ratio

rounds = st.lists(st.floats(0.5, 2.0), min_size=3, max_size=7)


@given(rounds, st.floats(1.0, 8.0))
def test_the_ratio_of_rounds_that_all_slow_down_alike_is_exact(times: list[float], factor: float):
    fast = Timing(tuple(times), min(times), 9)
    slow = Timing(tuple(t * factor for t in times), min(times) * factor, 9)
    assert ratio(slow, fast) == pytest.approx(factor)


def test_a_disturbed_round_does_not_move_the_median_or_the_ratio():
    calm, disturbed = Timing((2.0, 2.0, 2.0), 2.0, 9), Timing((4.0, 40.0, 4.0), 4.0, 9)
    assert disturbed.median_ms == 4.0
    assert ratio(disturbed, calm) == 2.0
    assert disturbed.spread == 9.0


def test_times_of_different_runs_are_not_compared():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        ratio(Timing((1.0, 1.0, 1.0), 1.0, 9), Timing((1.0, 1.0, 1.0, 1.0), 1.0, 9))


def test_fewer_than_three_rounds_are_refused():
    with pytest.raises(ValueError, match="at least 3 rounds, got 2"):
        race({}, rounds=2)
    with pytest.raises(ValueError, match="at least 3 rounds, got 1"):
        Timing((1.0,), 1.0, 1)


def test_a_round_cannot_be_faster_than_the_fastest_run():
    with pytest.raises(ValueError, match="min_ms"):
        Timing((1.0, 1.0, 1.0), 1.5, 3)


def test_a_race_tells_a_slow_call_from_a_fast_one():
    timings = race({"slow": lambda: time.sleep(0.012), "fast": lambda: time.sleep(0.002)}, rounds=3, round_s=0.01)
    assert timings["fast"].min_ms >= 2.0
    assert ratio(timings["slow"], timings["fast"]) > 2


def test_calls_are_interleaved_and_the_order_turns_every_round():
    seen: list[str] = []
    race({name: lambda name=name: seen.append(name) for name in "ab"}, rounds=3, round_s=0.0)
    turns = [name for index, name in enumerate(seen) if index == 0 or seen[index - 1] != name]
    # Once each to warm up, once each to choose the repeats, then a b | b a | a b, where equal neighbours run together.
    assert "".join(turns) == "ab" + "ab" + "ab" + "ab"


def test_the_first_call_of_a_turn_is_not_timed():
    calls: list[int] = []
    timing = race({"a": lambda: calls.append(1)}, rounds=3, round_s=0.0)["a"]
    # One call to warm up, two to choose the repeats, and in each of three rounds one before the three that count.
    assert (timing.runs, len(calls)) == (9, 1 + 2 + 3 * (1 + 3))


class Fitful(Pace):
    """A machine that is at full pace as the script says, one look after another, and then for good."""

    def __init__(self, script: list[bool]) -> None:
        self.script: list[bool] = []
        super().__init__(planned_s=0.001)
        self.script = script
        self._patience_s = 1.0

    def is_full(self) -> bool:
        return self.script.pop(0) if self.script else True


def test_a_turn_that_the_machine_disturbed_is_taken_again():
    # Calm before, slow after; slow before; then calm before and after.
    pace = Fitful([True, False, False, True, True])
    turns = iter("abcd")
    assert pace.undisturbed(lambda: next(turns)) == ("b", True)


def test_a_machine_that_never_keeps_its_pace_is_said_to_be_disturbed(monkeypatch):
    pace = Pace(planned_s=0.001)
    monkeypatch.setattr(Pace, "is_full", lambda _: False)
    timing = race({"a": lambda: None}, rounds=3, round_s=0.0, pace=pace)["a"]
    assert timing.disturbed == 3
    assert race({"a": lambda: None}, rounds=3, round_s=0.0)["a"].disturbed == 0


def test_the_peak_is_the_best_that_was_ever_seen():
    pace = Pace(planned_s=0.0)
    first = pace.peak_gflops
    assert first is not None
    assert first > 0
    pace.is_full()
    assert pace.peak_gflops >= first


def test_multiply_adds_with_loads_are_done_and_not_left_out_by_the_compiler():
    plain, kernel = Pace()._best
    assert 0.1 * plain < kernel < 1.2 * plain


@pytest.mark.parametrize("which", [0, 1])
def test_full_pace_is_that_of_registers_and_that_of_kernels(which: int):
    pace = Pace(planned_s=0.0)
    pace._best[which] = 1e9
    assert not pace.is_full()


def test_every_finished_round_is_told():
    told: list[int] = []
    race({"nothing": lambda: None}, rounds=4, round_s=0.0, on_round=told.append)
    assert told == [1, 2, 3, 4]
