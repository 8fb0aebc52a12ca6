"""One arena for all buffers: two share a place if no step needs both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monstera.compiler.layout import LINE
from monstera.compiler.program import Program, Step

# Whole vectors are loaded at the end of a run, so up to a tile of floats beyond a buffer is read (never used).
GUARD = 256


@dataclass(frozen=True, slots=True)
class Arena:
    """Where each buffer starts, in floats, and how long the arena is. `best` is the largest sum of live buffers."""

    offsets: Mapping[str, int]
    size: int
    best: int


def lifetimes(program: Program) -> dict[str, tuple[int, int]]:
    """First and last turn that touches each buffer."""
    return _spans([program.steps[t.step] for t in program.turns])


def _spans(steps: Sequence[Step]) -> dict[str, tuple[int, int]]:
    spans: dict[str, tuple[int, int]] = {}
    for i, step in enumerate(steps):
        for ref in step.refs():
            if ref.space == "arena":
                spans[ref.name] = (spans.get(ref.name, (i, i))[0], i)
    return spans


def overlays(program: Program) -> dict[str, str]:
    """Buffers that take over another's place because each element is read for the last time where it is written.

    Maps each to the first buffer of its chain.
    """
    first: dict[str, str] = {}
    spans = _spans(program.steps)
    for i, step in enumerate(program.steps):
        for name in {r.name for r in step.refs() if r.space == "arena"} if step.over else ():
            if spans[name][0] == i and program.buffers[name] == program.buffers[step.over]:
                late = program.steps[i : spans[step.over][1] + 1]
                if all(_lays_over(s, step.over, name) for s in late):
                    first[name] = first.get(step.over, step.over)
    return first


def _lays_over(step: Step, old: str, new: str) -> bool:
    """Whether a step touches `old` only to lay `new` over it, or not at all."""
    names = [r.name for r in step.refs() if r.space == "arena"]
    return names.count(old) == (1 if step.over == old and new in names else 0)


def place(program: Program) -> Arena:
    """Place the buffers, largest first, each at the lowest offset that is free during its whole life."""
    spans = lifetimes(program)
    sizes = {name: -(-program.buffers[name] // LINE) * LINE for name in spans}
    taken_over = overlays(program)
    for name, place_of in taken_over.items():
        begin, end = spans.pop(name)
        spans[place_of] = (min(begin, spans[place_of][0]), max(end, spans[place_of][1]))
    offsets: dict[str, int] = {}
    for name in sorted(spans, key=lambda b: (-sizes[b], spans[b])):
        begin, end = spans[name]
        taken = sorted(
            (offsets[other], offsets[other] + sizes[other])
            for other in offsets
            if spans[other][0] <= end and begin <= spans[other][1]
        )
        at = GUARD
        for low, high in taken:
            if at + sizes[name] <= low:
                break
            at = max(at, high)
        offsets[name] = at
    offsets |= {name: offsets[place_of] for name, place_of in taken_over.items()}
    size = max((offsets[n] + sizes[n] for n in offsets), default=GUARD) + GUARD
    live = [sum(sizes[n] for n, (a, b) in spans.items() if a <= i <= b) for i in range(len(program.turns))]
    return Arena(offsets, size, max(live, default=0))
