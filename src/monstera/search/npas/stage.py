"""A layer of the base network that may be replaced: by which filter types, with which patterns and densities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monstera.search.npas.scheme import DENSITIES, FILTERS, PATTERNS, SKIP, LayerChoice, SchemeError
from monstera.sparsity.pattern_names import pattern as pattern_of


def replacements(base: str) -> tuple[str, ...]:
    """The filter types that a layer may have: its own and those of less capacity, `skip` among them.

    Raises:
        SchemeError: unknown, or `skip`, which is no layer of a base network.
    """
    if base not in FILTERS or base == SKIP:
        raise SchemeError([f"a layer of the base network is one of {', '.join(FILTERS[:-1])}; got {base!r}"])
    return FILTERS[FILTERS.index(base) :]


@dataclass(frozen=True, slots=True)
class Stage:
    """A layer of the base network that may be replaced, and by what.

    Attributes:
        name: of its module, unique in the space.
        in_channels, out_channels, stride: its own; every replacement has the same.
        base: its filter type.
        hidden: channels in the middle of `1x1+3x3dw+1x1`; as many as come in, unless said.
        filters: filter types that it may have; all of `replacements(base)` that are possible, unless said.
        patterns: for each of these the patterns it may have, by short names. Given as one list, each filter type takes
            those that fit its weights, so that kernel patterns are for dense 3x3 only.
        densities: kept fractions that may go with a pattern; 1 always may.

    Raises:
        SchemeError: with everything that is wrong.
    """

    name: str
    in_channels: int
    out_channels: int
    stride: int
    base: str
    hidden: int
    filters: tuple[str, ...]
    patterns: tuple[tuple[str, tuple[str, ...]], ...]
    densities: tuple[float, ...]

    def __init__(
        self,
        name: str,
        in_channels: int,
        out_channels: int,
        base: str,
        stride: int = 1,
        *,
        hidden: int | None = None,
        filters: Sequence[str] | None = None,
        patterns: Sequence[str] | Mapping[str, Sequence[str]] = PATTERNS,
        densities: Sequence[float] = DENSITIES,
    ) -> None:
        hidden = in_channels if hidden is None else hidden
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "stride": stride, "hidden": hidden}
        if wrong := [f"{name}: {what} is {size!r}, expected at least 1" for what, size in sizes.items() if size < 1]:
            raise SchemeError(wrong)
        for what, value in {**sizes, "name": name, "base": base}.items():
            object.__setattr__(self, what, value)
        object.__setattr__(self, "densities", tuple(sorted({float(d) for d in densities} - {1.0}, reverse=True)))
        object.__setattr__(self, "filters", self._allowed(filters))
        object.__setattr__(self, "patterns", self._fitting(patterns))

    def _allowed(self, asked: Sequence[str] | None) -> tuple[str, ...]:
        possible = [kind for kind in replacements(self.base) if kind != SKIP or self.skippable]
        if asked is None:
            return tuple(possible)
        if wrong := [kind for kind in asked if kind not in possible]:
            reason = "" if self.skippable else f" (skip needs equal shapes, {self.shape} changes them)"
            raise SchemeError([f"{self.name}: a {self.base} may become {', '.join(possible)}{reason}; got {wrong}"])
        if not asked:
            raise SchemeError([f"{self.name}: no filter type is allowed"])
        return tuple(kind for kind in possible if kind in asked)

    def _fitting(self, asked: Sequence[str] | Mapping[str, Sequence[str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
        if not isinstance(asked, Mapping):
            fitting = {kind: [name for name in asked if self._fits(kind, name)] for kind in self.filters}
        elif wrong := self._misfits(asked):
            raise SchemeError(wrong)
        else:
            fitting = asked
        return tuple((k, tuple(sorted({pattern_of(n).name for n in fitting.get(k, ())}))) for k in self.filters)

    def _misfits(self, asked: Mapping[str, Sequence[str]]) -> list[str]:
        unknown = [
            f"{self.name}: patterns for {kind}, which is not allowed" for kind in asked if kind not in self.filters
        ]
        return unknown + [
            f"{self.name}: {kind} cannot have {name} at any of the densities"
            for kind in asked
            for name in asked[kind]
            if kind in self.filters and not self._fits(kind, name)
        ]

    def _fits(self, kind: str, name: str) -> bool:
        return kind != SKIP and any(not self.refusal(kind, name, density) for density in self.densities)

    @property
    def skippable(self) -> bool:
        """Whether what comes in has the shape of what goes out."""
        return self.in_channels == self.out_channels and self.stride == 1

    @property
    def shape(self) -> str:
        """Channels in and out, and the stride: `16-32/2`."""
        return f"{self.in_channels}-{self.out_channels}/{self.stride}"

    def pruned_shapes(self, kind: str) -> tuple[tuple[int, int, int, int], ...]:
        """Shapes of the weights that pattern and density of a filter type are for: none of depthwise ones."""
        if kind == "1x1+3x3dw+1x1":
            return (self.hidden, self.in_channels, 1, 1), (self.out_channels, self.hidden, 1, 1)
        size = 3 if kind == "3x3" else 1
        return () if kind == SKIP else ((self.out_channels, self.in_channels, size, size),)

    def refusal(self, kind: str, name: str, density: float) -> str:
        """Why weights of this filter type cannot have a pattern at a density, or the empty string.

        Raises:
            PatternError: there is no such pattern.
        """
        pattern = pattern_of(name)
        return next(filter(None, (pattern.refusal(density, shape) for shape in self.pruned_shapes(kind))), "")

    def work(self, choice: LayerChoice) -> float:
        """Multiply-accumulates of a choice for each place of the output."""
        shapes = self.pruned_shapes(choice.filter)
        # The first part of a cascade of three runs before the stride.
        times = [self.stride**2, 1] if len(shapes) == 2 else [1] * len(shapes)
        pruned = sum(many * math.prod(shape) for many, shape in zip(times, shapes, strict=True))
        depthwise = {"1x1+3x3dw+1x1": 9 * self.hidden, "3x3dw+1x1": 9 * self.in_channels}
        return choice.density * pruned + depthwise.get(choice.filter, 0)

    @property
    def actions(self) -> tuple[LayerChoice, ...]:
        """Every choice that is allowed, once each, in a fixed order."""
        made = {LayerChoice(kind) for kind in self.filters}
        for kind, names in self.patterns:
            pairs = [(name, density) for name in names for density in self.densities]
            made |= {LayerChoice(kind, *pair) for pair in pairs if not self.refusal(kind, *pair)}
        return tuple(sorted(made))
