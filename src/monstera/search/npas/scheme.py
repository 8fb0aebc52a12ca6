"""What NPAS searches: for every layer a filter type, a pattern and a density, and which of these a network allows."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

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

    @property
    def actions(self) -> tuple[LayerChoice, ...]:
        """Every choice that is allowed, once each, in a fixed order."""
        made = {LayerChoice(kind) for kind in self.filters}
        for kind, names in self.patterns:
            pairs = [(name, density) for name in names for density in self.densities]
            made |= {LayerChoice(kind, *pair) for pair in pairs if not self.refusal(kind, *pair)}
        return tuple(sorted(made))


@dataclass(frozen=True, slots=True)
class SchemeSpace:
    """All schemes of a base network: any allowed choice of one layer goes with any of the others.

    Attributes:
        stages: the replaceable layers, from input to output.
        shortcuts: `(first, last)`, by index: what enters stage `first` is added to what stage `last` gives. The output
            of a layer may be the end of one shortcut only.

    Raises:
        SchemeError: with everything that is wrong.

    Example:
        >>> space = SchemeSpace([Stage("a", 8, 16, "1x1", patterns=["8x4"], densities=[0.5])])
        >>> space.size, [str(choice) for choice in space.actions[0]]
        (2, ['1x1', '1x1 8x4 at 0.5'])
    """

    stages: tuple[Stage, ...]
    shortcuts: tuple[tuple[int, int], ...]
    actions: tuple[tuple[LayerChoice, ...], ...]

    def __init__(self, stages: Sequence[Stage], shortcuts: Iterable[tuple[int, int]] = ()) -> None:
        object.__setattr__(self, "stages", tuple(stages))
        object.__setattr__(self, "shortcuts", tuple(sorted({(first, last) for first, last in shortcuts})))
        if problems := self._problems():
            raise SchemeError(problems)
        object.__setattr__(self, "actions", tuple(stage.actions for stage in self.stages))

    def _problems(self) -> list[str]:
        names, ends = [stage.name for stage in self.stages], [last for _, last in self.shortcuts]
        found = [] if self.stages else ["a space needs at least one stage"]
        found += [f"two stages are called {name!r}" for name in sorted({n for n in names if names.count(n) > 1})]
        found += [
            f"shortcut {first}-{last}: expected 0 <= first <= last < {len(names)}"
            for first, last in self.shortcuts
            if not 0 <= first <= last < len(names)
        ]
        return found + [f"two shortcuts end at stage {end}" for end in sorted({e for e in ends if ends.count(e) > 1})]

    @property
    def size(self) -> int:
        """How many schemes there are."""
        return math.prod(map(len, self.actions))

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of everything that the space allows, the same in every process."""
        return digest_of([[asdict(stage) for stage in self.stages], self.shortcuts])

    def refusals(self, scheme: Scheme) -> list[str]:
        """Why a scheme is not one of this space: every reason, or none."""
        if len(scheme.choices) != len(self.stages):
            return [f"it has {len(scheme.choices)} layers, the space {len(self.stages)}"]
        layers = zip(self.stages, self.actions, scheme.choices, strict=True)
        return [reason for stage, actions, choice in layers if (reason := _refusal(stage, actions, choice))]

    def check(self, scheme: Scheme) -> None:
        """Refuse a scheme that is not one of this space.

        Raises:
            SchemeError: with all reasons.
        """
        if problems := self.refusals(scheme):
            raise SchemeError(problems)

    def sample(self, rng: np.random.Generator) -> Scheme:
        """A scheme, each as likely as any other."""
        return Scheme(tuple(actions[int(rng.integers(len(actions)))] for actions in self.actions))

    @property
    def base(self) -> Scheme:
        """The base network itself, dense.

        Raises:
            SchemeError: a stage does not allow its own filter type.
        """
        scheme = Scheme(tuple(LayerChoice(stage.base) for stage in self.stages))
        self.check(scheme)
        return scheme

    def with_pattern(self, name: str) -> SchemeSpace:
        """The same space with one pattern only; layers that it does not fit stay dense.

        Raises:
            SchemeError: it fits no layer of the space.
        """
        stages = [
            Stage(
                stage.name,
                stage.in_channels,
                stage.out_channels,
                stage.base,
                stage.stride,
                hidden=stage.hidden,
                filters=stage.filters,
                patterns=(name,),
                densities=stage.densities,
            )
            for stage in self.stages
        ]
        if not any(names for stage in stages for _, names in stage.patterns):
            raise SchemeError([f"pattern {name} fits no layer of the space"])
        return SchemeSpace(stages, self.shortcuts)


def _refusal(stage: Stage, actions: tuple[LayerChoice, ...], choice: LayerChoice) -> str:
    if choice in actions:
        return ""
    if choice.filter not in stage.filters:
        return f"{stage.name}: {choice.filter} is not among its filter types, {', '.join(stage.filters)}"
    names = dict(stage.patterns)[choice.filter]
    if choice.pattern is not None and choice.pattern not in names:
        return (
            f"{stage.name}: {choice.filter} may have the patterns {', '.join(names) or '(none)'}; got {choice.pattern}"
        )
    densities = [
        action.density for action in actions if (action.filter, action.pattern) == (choice.filter, choice.pattern)
    ]
    shown = ", ".join(f"{density:g}" for density in densities)
    return f"{stage.name}: {choice.filter} with {choice.pattern} has the densities {shown}; got {choice.density:g}"
