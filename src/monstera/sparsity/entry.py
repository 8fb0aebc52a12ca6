"""One line of a plan: a pattern and how dense it leaves the weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from monstera.sparsity.errors import PatternError, PlanError
from monstera.sparsity.pattern import Pattern
from monstera.sparsity.pattern_names import PatternLike
from monstera.sparsity.pattern_names import pattern as pattern_of


@dataclass(frozen=True, slots=True)
class Entry:
    """A pattern (or its short name) and the kept fraction of groups, which N:M patterns know by themselves.

    Raises:
        PatternError: the pattern is unknown or the density does not fit it.

    Example:
        >>> Entry("2:4").density
        0.5
    """

    pattern: Pattern
    density: float

    def __init__(self, pattern: PatternLike, density: float | None = None) -> None:
        pattern = pattern_of(pattern)
        object.__setattr__(self, "pattern", pattern)
        object.__setattr__(self, "density", pattern.density(density))

    def __str__(self) -> str:
        return f"{self.pattern} at density {self.density:g}"


EntryLike: TypeAlias = Entry | tuple[PatternLike, float | None] | tuple[PatternLike]


def entries_of(values: Mapping[str, EntryLike]) -> dict[str, Entry]:
    """Checked entries by name.

    Raises:
        PlanError: with everything that is wrong.
    """
    made = {name: _entry_or_problem(value) for name, value in values.items()}
    if problems := [f"{name}: {entry}" for name, entry in made.items() if isinstance(entry, str)]:
        raise PlanError(problems)
    return {name: entry for name, entry in made.items() if isinstance(entry, Entry)}


def _entry_or_problem(value: Any) -> Entry | str:
    if isinstance(value, Entry):
        return value
    if not isinstance(value, tuple) or not 1 <= len(value) <= 2:
        return f"expected an Entry or (pattern, density), got {value!r}"
    try:
        return Entry(*value)
    except PatternError as error:
        return str(error)
