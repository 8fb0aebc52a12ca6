"""What a plan is asked to reach."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, isfinite, log10


class GoalError(ValueError):
    """What was asked for cannot be reached; `best` is what can, in the unit of the goal, and can be asked for."""

    def __init__(self, message: str, best: float) -> None:
        self.best = best
        super().__init__(message)

    def __reduce__(self) -> tuple[type[GoalError], tuple[str, float]]:
        return type(self), (str(self), self.best)


@dataclass(frozen=True, slots=True)
class Goal:
    """Exactly one of three.

    Attributes:
        speedup: how many times faster than our own dense engine on as many threads; above 1.
        latency_ms: of one call of the whole network.
        density: kept share of the weights that may get holes, below 1; nothing is timed then.

    Raises:
        ValueError: none or several are given, or one makes no sense.
    """

    speedup: float | None = None
    latency_ms: float | None = None
    density: float | None = None

    def __post_init__(self) -> None:
        given = {n: v for n in ("speedup", "latency_ms", "density") if (v := getattr(self, n)) is not None}
        if len(given) != 1:
            got = " and ".join(f"{name}={value}" for name, value in given.items()) or "none of them"
            raise ValueError(f"a plan has one goal, speedup, latency_ms or density; got {got}")
        ((name, value),) = given.items()
        lower, upper = {"speedup": (1, float("inf")), "latency_ms": (0, float("inf")), "density": (0, 1)}[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ValueError(f"{name} is a finite number, got {value!r}")
        if not lower < value < upper:
            bounds = f"above {lower}" + ("" if name != "density" else f" and below {upper}")
            raise ValueError(f"{name} is {bounds}, got {value:g}")

    @property
    def timed(self) -> bool:
        """Whether it is about time."""
        return self.density is None

    def budget(self, dense: float) -> float:
        """What the plan may cost where the dense network costs `dense`, in ms; for a density, in weights."""
        if self.latency_ms is not None:
            return self.latency_ms
        return dense / self.speedup if self.speedup is not None else dense * (self.density or 0)

    def reached(self, dense: float, cost: float) -> float:
        """What a plan of this cost reaches, in the unit of the goal."""
        if self.latency_ms is not None:
            return cost
        return dense / cost if self.speedup is not None else cost / dense

    def within_reach(self, best: float) -> float:
        """The best of what can be reached in three digits, rounded to the side on which it can still be reached."""
        unit = 10.0 ** (floor(log10(best)) - 2)
        return (floor if self.speedup is not None else ceil)(best / unit) * unit

    def __str__(self) -> str:
        if self.latency_ms is not None:
            return self.show(self.latency_ms)
        return self.show(self.speedup if self.speedup is not None else self.density or 0)

    def show(self, value: float) -> str:
        """A value in the unit of the goal, in words."""
        if self.latency_ms is not None:
            return f"{value:.4g} ms"
        return f"{value:.3g} times faster than dense" if self.speedup is not None else f"density {value:.3g}"
