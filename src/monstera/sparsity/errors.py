"""What can be wrong with a view, a pattern, a plan, a mask file, a stored weight or a rewrite of a model.

All are `ValueError`s with advice in the message.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ViewError(ValueError):
    """A parameter cannot be seen as `[slices, out, in, positions]`."""


class PatternError(ValueError):
    """A pattern is malformed, or does not fit a weight, a score or a density."""


class PlanError(ValueError):
    """A plan is malformed or does not fit a model; `problems` lists everything that is wrong."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        head = f"the plan has {len(self.problems)} problem{'s' * (len(self.problems) != 1)}:"
        super().__init__("\n  - ".join([head, *self.problems]))

    def __reduce__(self) -> tuple[type[PlanError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class TraceError(ValueError):
    """The channels of a model cannot be followed."""


class AttachedError(ValueError):
    """A model must not be rewritten now, as a method works on its parameters."""


class ShrinkError(ValueError):
    """A file of cuts is damaged, or its cuts do not fit a model."""


class MaskFileError(ValueError):
    """A mask file is damaged, foreign, or of another version."""


class FormatError(ValueError):
    """A weight has no such storage form, or the arrays of one contradict each other."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the closest known ones, or all of them if none is close."""
    known = list(known)
    close = get_close_matches(name, known, n=3)
    if close:
        return "did you mean " + " or ".join(map(repr, close)) + "?"
    shown = ", ".join(known[:20])
    return f"known: {shown}{', ...' if len(known) > 20 else ''}" if known else "there are none"
