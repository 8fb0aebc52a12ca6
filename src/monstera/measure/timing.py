"""Times several calls against each other: interleaved rounds, so that a slow minute of the machine meets them all.

Where the machine itself changes its pace (see `Pace`), a turn that it disturbed is taken again, whosever it is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from monstera.measure.peak import Pace

MIN_ROUNDS = 3

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one call took: the median of each round, the fastest single run, and how many runs there were.

    In `disturbed` rounds the machine never kept its full pace for a whole turn.
    """

    rounds_ms: tuple[float, ...]
    min_ms: float
    runs: int
    disturbed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rounds_ms", tuple(self.rounds_ms))
        if len(self.rounds_ms) < MIN_ROUNDS:
            raise ValueError(f"a timing needs at least {MIN_ROUNDS} rounds, got {len(self.rounds_ms)}")
        if self.min_ms <= 0 or min(self.rounds_ms) < self.min_ms:
            raise ValueError(f"min_ms is {self.min_ms} but the rounds read {self.rounds_ms}")

    @property
    def median_ms(self) -> float:
        """The median of the rounds' medians."""
        return statistics.median(self.rounds_ms)

    @property
    def spread(self) -> float:
        """Largest minus smallest round, relative to the median."""
        return (max(self.rounds_ms) - min(self.rounds_ms)) / self.median_ms


def ratio(slow: Timing, fast: Timing) -> float:
    """Return how many times longer `slow` took: the median of the ratios within each round.

    Raises:
        ValueError: the two were not timed in the same number of rounds, so they cannot be from one run.
    """
    pairs = zip(slow.rounds_ms, fast.rounds_ms, strict=True)
    return statistics.median(s / f for s, f in pairs)


def race(
    calls: Mapping[str, Call],
    *,
    rounds: int = 5,
    round_s: float = 0.3,
    pace: Pace | None = None,
    on_round: Callable[[int], None] = lambda _: None,
) -> dict[str, Timing]:
    """Time every call in each of `rounds` rounds and return a Timing by name.

    In a round a call runs once untimed (caches, clocks, idle thread pools of the one before it), then for about
    `round_s` seconds, 3 to 100 times. The order is reversed every other round, so that no call always follows the
    same neighbour. With a `pace`, turns that the machine disturbed are
    taken again. `on_round(done)` is told of every finished round.

    Raises:
        ValueError: fewer than 3 rounds.
    """
    if rounds < MIN_ROUNDS:
        raise ValueError(f"expected at least {MIN_ROUNDS} rounds, got {rounds}")
    for call in calls.values():
        call()
    repeats = {name: _repeats(call, round_s) for name, call in calls.items()}
    samples: dict[str, list[list[float]]] = {name: [] for name in calls}
    disturbed = dict.fromkeys(calls, 0)
    order = list(calls)
    for done in range(1, rounds + 1):
        for name in order:
            turn = partial(_block, calls[name], repeats[name])
            block, calm = pace.undisturbed(turn) if pace else (turn(), True)
            samples[name].append(block)
            disturbed[name] += not calm
        order.reverse()
        on_round(done)
    return {name: _timing(blocks, disturbed[name]) for name, blocks in samples.items()}


def _repeats(call: Call, round_s: float) -> int:
    once_s = max(_block(call, 1)[0] / 1e3, 1e-9)
    return max(3, min(100, round(round_s / once_s)))


def _block(call: Call, repeats: int) -> list[float]:
    call()
    times_ms = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times_ms.append((time.perf_counter() - start) * 1e3)
    return times_ms


def _timing(blocks: list[list[float]], disturbed: int) -> Timing:
    return Timing(
        rounds_ms=tuple(statistics.median(block) for block in blocks),
        min_ms=min(min(block) for block in blocks),
        runs=sum(len(block) for block in blocks),
        disturbed=disturbed,
    )
