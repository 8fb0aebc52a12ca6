"""Runs of steps in stripes: a few rows through several layers before the next rows, so that what one layer writes is
still in the second-level cache when the next one reads it.

Buffers keep their whole size and nothing is computed twice: a stripe of an early layer only runs ahead by the rows that
the taps of later layers reach down to. The zeros behind a plane are the pad above the next one, which the first stripe
reads: kernels lay them first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from monstera.compiler.kernels import run_of
from monstera.compiler.program import Program, Step, Sweep, Turn

# What a stripe and its weights may take of a second-level cache of 1 MiB; every thread has one.
STRIPE_BYTES = 640 * 1024
# Larger buffers come from memory, at so many nanoseconds a byte; the way from the last-level cache is hidden by work.
LAST_LEVEL_BYTES = 4 * 1024 * 1024
_MEMORY_NS = 1 / 40
# What a turn costs in itself, and every call in it: its tables have left the first-level cache.
_TURN_NS = 400
_CALL_NS = 40
_LONGEST = 12


@dataclass(frozen=True, slots=True)
class Group:
    """Steps `begin` up to `end`, done in this many stripes."""

    begin: int
    end: int
    stripes: int = 1


def in_stripes(program: Program, threads: int) -> Program:
    """The program with its turns in stripes where that saves traffic to the third-level cache."""
    groups = choose_groups(program, threads)
    steps = list(program.steps)
    turns: list[Turn] = []
    for group in groups:
        if group.stripes == 1:
            turns += [Turn(i) for i in range(group.begin, group.end)]
            continue
        windows = stripe_windows(steps[group.begin : group.end], group.stripes)
        for stripe in range(group.stripes):
            for i, window in enumerate(windows, group.begin):
                begin, end = window[stripe], window[stripe + 1]
                if begin < end:
                    turns.append(Turn(i, begin, end))
        for i in range(group.begin, group.end):
            steps[i] = _with_widths(steps[i], windows[i - group.begin], threads)
            if steps[i].over and not _stays_behind(steps, windows, group, i):
                steps[i] = replace(steps[i], over="")
    return replace(program, steps=tuple(steps), turns=tuple(turns))


def stripe_windows(steps: Sequence[Step], stripes: int) -> list[list[int]]:
    """For each step the units at which its stripes begin, and where the last one ends.

    The last step is cut evenly; every other one is as far ahead as its readers ask.
    """
    windows: list[list[int]] = [[] for _ in steps]
    for i in reversed(range(len(steps))):
        sweep = _sweep(steps[i])
        readers = [
            (windows[k], read)
            for k in range(i + 1, len(steps))
            for read in _sweep(steps[k]).reads
            if read.buffer == sweep.buffer
        ]
        ends = [0]
        for stripe in range(1, stripes):
            need = max((w[stripe] and (w[stripe] - 1) * r.step + r.past for w, r in readers), default=0)
            even = sweep.units * stripe // stripes if not readers else 0
            ends.append(min(max(ends[-1], even, -(-need // sweep.floats)), sweep.units))
        windows[i] = [*ends, sweep.units]
    return windows


def choose_groups(program: Program, threads: int) -> list[Group]:
    """Cut the steps into groups so that the least is moved between the caches."""
    steps, sizes = program.steps, _Sizes(program, threads * STRIPE_BYTES)
    best: list[tuple[float, list[Group]]] = [(0.0, [])]
    for end in range(1, len(steps) + 1):
        options = []
        for begin in range(end - 1, max(-1, end - 1 - _LONGEST), -1):
            if steps[begin].sweep is None and begin < end - 1:
                break
            group, cost = sizes.best(begin, end)
            options.append((best[begin][0] + cost, [*best[begin][1], group]))
            if steps[begin].sweep is None:
                break
        best.append(min(options, key=lambda option: option[0]))
    return best[-1][1]


class _Sizes:
    """Bytes of everything a step touches."""

    def __init__(self, program: Program, stripe_bytes: int) -> None:
        self.steps, self.stripe_bytes = program.steps, stripe_bytes
        self.bytes = {name: 4 * floats for name, floats in program.buffers.items()}
        self.weights = [
            sum(program.tables[r.name].nbytes for r in s.refs() if r.space == "weights") for s in program.steps
        ]
        self.touched = [{r.name for r in s.refs() if r.space == "arena"} for s in program.steps]

    def best(self, begin: int, end: int) -> tuple[Group, float]:
        """The cheapest way to do some steps as one group, and its cost in nanoseconds."""
        if end - begin == 1:
            return Group(begin, end), self.plain(begin)
        buffers = set().union(*self.touched[begin:end])
        total = sum(self.bytes[b] for b in buffers)
        weights = sum(self.weights[begin:end])
        room = self.stripe_bytes - weights - self.halos(begin, end)
        most = min(s.units // s.tile for s in map(_sweep, self.steps[begin:end]))
        if room <= 0 or total > room * most:
            return Group(begin, end), float("inf")
        stripes = max(2, -(-total // room))
        if stripes > most:
            return Group(begin, end), float("inf")
        made = {_sweep(s).buffer for s in self.steps[begin:end]}
        moved = sum(self.fetch(b) / (2 if b in made else 1) for b in buffers)
        calls = sum(_sweep(s).calls for s in self.steps[begin:end])
        turns_ns = stripes * ((end - begin) * _TURN_NS + calls * _CALL_NS)
        return Group(begin, end, stripes), moved + turns_ns

    def plain(self, i: int) -> float:
        """A step by itself: what does not fit the cache is fetched, and what is written is fetched before."""
        total = sum(self.bytes[b] for b in self.touched[i])
        return sum(map(self.fetch, self.touched[i])) if total > self.stripe_bytes else 0.0

    def fetch(self, buffer: str) -> float:
        """What it costs to bring a buffer in from where one of its size lies, in nanoseconds."""
        return self.bytes[buffer] * _MEMORY_NS if self.bytes[buffer] > LAST_LEVEL_BYTES else 0.0

    def halos(self, begin: int, end: int) -> int:
        """Bytes by which stripes overlap: what taps reach beyond their own pixels."""
        made = {}
        bytes_ = 0
        for i in range(begin, end):
            sweep = _sweep(self.steps[i])
            made[sweep.buffer] = sweep.units * sweep.floats
            for read in sweep.reads:
                reach = max(0, read.past - read.first - read.step)
                plane = made.get(read.buffer, read.step * sweep.units)
                bytes_ += self.bytes[read.buffer] * reach // max(1, plane)
        return bytes_


def _with_widths(step: Step, window: Sequence[int], threads: int) -> Step:
    """The step with the tile widths that its stripes need."""
    if not step.kernel.rows:
        return step
    widths = run_of(step.fields).widths(itertools.pairwise(window), threads)
    return replace(step, kernel=replace(step.kernel, widths=tuple(sorted(widths))))


def _stays_behind(steps: Sequence[Step], windows: list[list[int]], group: Group, i: int) -> bool:
    """Whether a step that overwrites a buffer never gets ahead of those in its group that still read it."""
    own, mine = _sweep(steps[i]), windows[i - group.begin]
    for k in range(group.begin, group.end):
        if k == i or steps[k].over == steps[i].over:
            continue
        for read in (r for r in _sweep(steps[k]).reads if r.buffer == steps[i].over):
            theirs = windows[k - group.begin]
            for stripe in range(1, group.stripes):
                if theirs[stripe] < theirs[-1] and mine[stripe] * own.floats > theirs[stripe] * read.step + read.first:
                    return False
    return True


def _sweep(step: Step) -> Sweep:
    assert step.sweep is not None
    return step.sweep
