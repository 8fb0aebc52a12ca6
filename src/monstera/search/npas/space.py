"""Which schemes a base network allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from monstera.search.npas.scheme import LayerChoice, Scheme, SchemeError, digest_of
from monstera.search.npas.stage import Stage


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


def smallest_schemes(space: SchemeSpace) -> tuple[Scheme, ...]:
    """The schemes of least work: one for each pattern, which is taken wherever another has no less."""
    patterns = dict.fromkeys(choice.pattern for actions in space.actions for choice in actions)
    layers = [*zip(space.stages, space.actions, strict=True)]

    def least(stage: Stage, actions: tuple[LayerChoice, ...], pattern: str | None) -> LayerChoice:
        return min(actions, key=lambda choice: (stage.work(choice), choice.pattern != pattern))

    return tuple({Scheme(tuple(least(*layer, pattern) for layer in layers)): None for pattern in patterns})


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
