"""What `plan.verify` found."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True)
class WeightReport:
    """One weight: densities are fractions of groups, `nonzero` of `size` weights are not zero."""

    name: str
    shape: tuple[int, ...]
    pattern: str
    asked: float
    achieved: float
    nonzero: int
    size: int
    holds: bool


@dataclass(frozen=True, slots=True)
class PlanReport:
    """All planned weights, in the plan's order; `parameters` counts every parameter of the model."""

    weights: tuple[WeightReport, ...]
    parameters: int

    @property
    def ok(self) -> bool:
        """Whether every weight obeys the plan."""
        return all(w.holds for w in self.weights)

    @property
    def failures(self) -> tuple[WeightReport, ...]:
        """The weights that do not obey the plan."""
        return tuple(w for w in self.weights if not w.holds)

    @property
    def density(self) -> float:
        """Non-zero fraction of the planned weights (1 if there are none)."""
        size = sum(w.size for w in self.weights)
        return sum(w.nonzero for w in self.weights) / size if size else 1.0

    @property
    def parameter_density(self) -> float:
        """Fraction of all parameters of the model that the holes leave (parameters without an entry count as kept)."""
        holes = sum(w.size - w.nonzero for w in self.weights)
        return 1 - holes / self.parameters if self.parameters else 1.0

    def summary(self) -> str:
        """One line."""
        verdict = "the plan holds" if self.ok else f"{len(self.failures)} of {len(self.weights)} weights break the plan"
        return (
            f"{verdict}; density of planned weights {self.density:.4g}, of all parameters {self.parameter_density:.4g}"
        )

    def __str__(self) -> str:
        rows = [_HEADER, *(_cells(w) for w in self.weights)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, self.summary()])

    def __rich__(self) -> Table:
        table = Table(caption=self.summary())
        for column in _HEADER:
            table.add_column(column, justify="right" if column in ("asked", "achieved") else "left")
        for weight in self.weights:
            table.add_row(*_cells(weight), style=None if weight.holds else "red")
        return table


_HEADER = ("weight", "shape", "pattern", "asked", "achieved", "holds")


def _cells(weight: WeightReport) -> tuple[str, ...]:
    shape = "x".join(map(str, weight.shape))
    holds = "yes" if weight.holds else "NO"
    return weight.name, shape, weight.pattern, f"{weight.asked:.4g}", f"{weight.achieved:.4g}", holds
