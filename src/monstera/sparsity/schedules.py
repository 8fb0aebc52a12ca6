"""Schedules: a value for every step, of a density or a penalty; flat before `start_step` and after `end_step`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from monstera.sparsity.errors import suggestion


@runtime_checkable
class Schedule(Protocol):
    """Anything that gives a value for a step counted from 0."""

    def __call__(self, step: int) -> float: ...


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value at every step."""

    value: float

    def __call__(self, step: int) -> float:  # noqa: ARG002
        return self.value


@dataclass(frozen=True, slots=True)
class Ramp(ABC):
    """From `start_value` (up to and at `start_step`) to `end_value` (at and after `end_step`), in a shape of its own.

    With `start_step == end_step` the value jumps there.

    Raises:
        ValueError: steps out of order or negative, or a value that is not finite.
    """

    start_value: float
    end_value: float
    start_step: int
    end_step: int

    def __post_init__(self) -> None:
        if not 0 <= self.start_step <= self.end_step:
            raise ValueError(f"a schedule needs 0 <= start_step <= end_step, got {self.start_step} and {self.end_step}")
        if not (math.isfinite(self.start_value) and math.isfinite(self.end_value)):
            raise ValueError(f"a schedule needs finite values, got {self.start_value} and {self.end_value}")

    def __call__(self, step: int) -> float:
        # The end is tested first, so that the last value is met exactly and an empty ramp is a jump.
        if step >= self.end_step:
            return self.end_value
        if step <= self.start_step:
            return self.start_value
        progress = (step - self.start_step) / (self.end_step - self.start_step)
        return self.start_value + (self.end_value - self.start_value) * self.shape(progress)

    @abstractmethod
    def shape(self, progress: float) -> float:
        """How much of the way is gone at a progress in (0, 1): from 0 to 1, never falling."""


@dataclass(frozen=True, slots=True)
class Linear(Ramp):
    """A straight line."""

    def shape(self, progress: float) -> float:
        return progress


@dataclass(frozen=True, slots=True)
class Cubic(Ramp):
    """Fast at first, when much is redundant, slow at the end: `1 - (1 - t)^3`.

    Source: Zhu and Gupta 2017, "To prune, or not to prune", equation 1.
    """

    def shape(self, progress: float) -> float:
        return 1 - (1 - progress) ** 3


@dataclass(frozen=True, slots=True)
class Cosine(Ramp):
    """Half a cosine wave: slow at both ends."""

    def shape(self, progress: float) -> float:
        return (1 - math.cos(math.pi * progress)) / 2


@dataclass(frozen=True, slots=True)
class OneCycle(Ramp):
    """A logistic curve: slow at first, steep early on, slow at the end.

    Source: Hubens et al. 2021, "One-Cycle Pruning". Theirs starts 0.7% up the way; ours is stretched to start at 0.

    Attributes:
        steepness: the logistic's slope (theirs: 14).
        offset: how late it rises; the middle is at `offset / steepness` of the way (theirs: 5).
    """

    steepness: float = 14.0
    offset: float = 5.0

    def __post_init__(self) -> None:
        Ramp.__post_init__(self)
        if not (self.steepness > 0 and math.isfinite(self.steepness) and math.isfinite(self.offset)):
            raise ValueError(f"one-cycle needs a finite steepness > 0 and a finite offset, got {self}")

    def shape(self, progress: float) -> float:
        first, here, last = (_logistic(self.steepness * t - self.offset) for t in (0.0, progress, 1.0))
        return (here - first) / (last - first)


def _logistic(x: float) -> float:
    return (1 + math.tanh(x / 2)) / 2


AnySchedule: TypeAlias = Constant | Linear | Cubic | Cosine | OneCycle

# For recipes and the command line only.
SCHEDULES: dict[str, type[AnySchedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cubic": Cubic,
    "cosine": Cosine,
    "one_cycle": OneCycle,
}


def schedule(name: str, **fields: float) -> AnySchedule:
    """A schedule by name, for recipes.

    Raises:
        ValueError: an unknown name; the message lists the known ones.

    Example:
        >>> schedule("cubic", start_value=1.0, end_value=0.25, start_step=0, end_step=100)(50)
        0.34375
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; {suggestion(name, SCHEDULES)}")
    return SCHEDULES[name](**fields)  # pyright: ignore[reportArgumentType]
