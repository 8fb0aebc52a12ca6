"""The arena: buffers that live at the same time never overlap."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from monstera.compiler.memory import GUARD, lifetimes, place
from monstera.compiler.program import Kernel, Program, Ref, Step, Turn

buffers = st.lists(st.tuples(st.integers(1, 500), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12)


def _in_order(steps: Sequence[Step]) -> tuple[Turn, ...]:
    return tuple(Turn(i) for i in range(len(steps)))


def _program(spans: list[tuple[int, int, int]]) -> Program:
    steps = []
    for i in range(10):
        live = tuple(Ref("arena", str(b)) for b, (_, s, t) in enumerate(spans) if i in (min(s, t), max(s, t)))
        steps.append(Step("", "", Kernel("k", "h"), "", {}, live))
    return Program((), (), tuple(steps), {str(b): size for b, (size, _, _) in enumerate(spans)}, {}, _in_order(steps))


@given(buffers)
def test_buffers_that_live_together_lie_apart(spans):
    program = _program(spans)
    arena, lives = place(program), lifetimes(program)
    for a in lives:
        for b in lives:
            together = lives[a][0] <= lives[b][1] and lives[b][0] <= lives[a][1]
            if a < b and together:
                first, second = sorted((a, b), key=lambda n: arena.offsets[n])
                assert arena.offsets[first] + program.buffers[first] <= arena.offsets[second]


@given(buffers)
def test_the_arena_has_a_guard_at_both_ends_and_starts_buffers_on_lines(spans):
    program = _program(spans)
    arena = place(program)
    assert min(arena.offsets.values()) >= GUARD
    assert all(at % 16 == 0 for at in arena.offsets.values())
    assert all(at + program.buffers[n] + GUARD <= arena.size for n, at in arena.offsets.items())
    assert arena.best + 2 * GUARD <= arena.size


def test_buffers_with_lives_apart_share_their_place():
    arena = place(_program([(100, 0, 1), (100, 2, 3), (100, 4, 5)]))
    assert len(set(arena.offsets.values())) == 1


def _overlay(*later: Step) -> Program:
    """`new` is laid over `old` in step 1; `later` steps follow."""
    steps = (_touch("old"), _touch("old", "new", over="old"), *later)
    return Program((), (), steps, {"old": 64, "new": 64, "other": 64}, {}, _in_order(steps))


def _touch(*names: str, over: str = "") -> Step:
    return Step("", "", Kernel("k", "h"), "", {}, tuple(Ref("arena", n) for n in names), over=over)


def test_a_result_takes_the_place_of_the_operand_it_is_laid_over():
    arena = place(_overlay(_touch("new")))
    assert arena.offsets["new"] == arena.offsets["old"]
    assert arena.best == 64


def test_a_result_that_two_steps_lay_over_an_operand_takes_its_place():
    arena = place(_overlay(_touch("old", "new", over="old"), _touch("new")))
    assert arena.offsets["new"] == arena.offsets["old"]


def test_an_operand_that_is_still_read_keeps_its_place():
    for later in (_touch("old"), _touch("old", "other", over="old"), _touch("old", "old", "new", over="old")):
        arena = place(_overlay(later, _touch("new")))
        assert arena.offsets["new"] != arena.offsets["old"]
