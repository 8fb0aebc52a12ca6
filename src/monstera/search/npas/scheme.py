"""What becomes of every layer: a filter type, a pattern and a density, one choice a layer a scheme."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from monstera.sparsity.errors import PatternError, suggestion
from monstera.sparsity.pattern_names import pattern as pattern_of

SKIP = "skip"
# By capacity at equal channels: a layer may become what stands behind it, so that its weights can seed the other.
FILTERS = ("3x3", "1x1+3x3dw+1x1", "3x3dw+1x1", "1x1", SKIP)
# The paper's pruning rates of 1, 2, 2.5, 3, 5, 7 and 10, as the fractions kept.
DENSITIES = (1.0, 0.5, 0.4, 1 / 3, 0.2, 1 / 7, 0.1)
# Whole filters, kernel patterns, block-punched.
PATTERNS = ("filter", "patterns4of8", "8x4")


class SchemeError(ValueError):
    """A scheme is malformed or not one of its space; `problems` lists everything that is wrong."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        head = f"the scheme has {len(self.problems)} problem{'s' * (len(self.problems) != 1)}:"
        super().__init__("\n  - ".join([head, *self.problems]))

    def __reduce__(self) -> tuple[type[SchemeError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """What becomes of one layer. Canonical: choices that make the same layer are equal.

    Attributes:
        filter: one of `FILTERS`.
        pattern: the short name of a pattern as patterns write it themselves, or None where nothing is pruned.
        density: kept fraction of groups, in (0, 1]. In cascades pattern and density are those of the 1x1 parts.

    Raises:
        SchemeError: an unknown filter or pattern, or a density that does not fit.

    Example:
        >>> LayerChoice("3x3", "8X4", 1) == LayerChoice("3x3"), LayerChoice("skip", "8x4", 0.5) == LayerChoice("skip")
        (True, True)
    """

    filter: str
    pattern: str | None = None
    density: float = 1.0

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise SchemeError([f"unknown filter type {self.filter!r}; {suggestion(str(self.filter), FILTERS)}"])
        object.__setattr__(self, "density", float(self.density))
        if self.filter == SKIP or self.density == 1:
            object.__setattr__(self, "pattern", None)
            object.__setattr__(self, "density", 1.0)
            return
        if self.pattern is None:
            raise SchemeError([f"{self.filter} at density {self.density:g} needs a pattern; without one it is 1"])
        try:
            pattern = pattern_of(self.pattern)
            object.__setattr__(self, "pattern", pattern.name)
            object.__setattr__(self, "density", pattern.density(self.density))
        except PatternError as error:
            raise SchemeError([f"{self.filter}: {error}"]) from None

    def __str__(self) -> str:
        return self.filter if self.pattern is None else f"{self.filter} {self.pattern} at {self.density:g}"

    def __lt__(self, other: LayerChoice) -> bool:
        return self._rank < other._rank

    @property
    def _rank(self) -> tuple[int, float, str]:
        return FILTERS.index(self.filter), -self.density, self.pattern or ""

    @property
    def kept(self) -> float:
        """The density, and 0 for a layer that is skipped."""
        return 0.0 if self.filter == SKIP else self.density


@dataclass(frozen=True, slots=True)
class Scheme:
    """One choice for every replaceable layer, from input to output. Hashable; equal schemes make equal networks.

    Raises:
        SchemeError: no layers.
    """

    choices: tuple[LayerChoice, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))
        if not self.choices:
            raise SchemeError(["a scheme needs at least one layer"])

    def __str__(self) -> str:
        return ", ".join(map(str, self.choices))

    @property
    def mean_kept(self) -> float:
        """The mean of what layers keep: how much is pruned, roughly."""
        return math.fsum(choice.kept for choice in self.choices) / len(self.choices)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits, the same in every process and on every machine."""
        return digest_of(self.to_json())

    def to_json(self) -> list[list[Any]]:
        """Plain values for JSON: `[filter, pattern, density]` for each layer."""
        return [[choice.filter, choice.pattern, choice.density] for choice in self.choices]

    @classmethod
    def from_json(cls, value: Any) -> Scheme:
        """The scheme that `to_json` wrote.

        Raises:
            SchemeError: it is not such a list.
        """
        if not isinstance(value, list) or not all(isinstance(row, list) and len(row) == 3 for row in value):
            raise SchemeError([f"expected a list of [filter, pattern, density], got {value!r}"])
        return cls(tuple(LayerChoice(*row) for row in value))


def digest_of(value: Any) -> str:
    """16 hexadecimal digits of plain JSON values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
