"""A plan with its reasons: what was decided for each layer and why, what was predicted and what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from monstera.search.costs.display import frameless
from monstera.search.goal import Goal
from monstera.search.masked import Measured
from monstera.sparsity import Entry, Plan

_WIDTH = 160


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided for one weight.

    Attributes:
        weight: its name.
        entry: its holes; None leaves it dense.
        why: in words.
        dense_cost: predicted ms of all its uses in a call without holes; weights, where the goal is a density.
        cost: the same with the holes.
        loss: the estimate of what they cost in accuracy, see `sensitivity`.
    """

    weight: str
    entry: Entry | None
    why: str
    dense_cost: float
    cost: float
    loss: float


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and how it came about. Prints as a table.

    Attributes:
        plan: what `monstera.plan` returns.
        goal: what was asked for.
        decisions: one for each weight that the rules speak of, in the model's order.
        dense_cost: predicted, of a call of the dense network in ms; weights, where the goal is a density.
        cost: the same with the plan.
        measured: this machine's times of both, None where nothing was timed.
        tries: how many plans were compiled and measured.
    """

    plan: Plan
    goal: Goal
    decisions: tuple[Decision, ...]
    dense_cost: float
    cost: float
    measured: Measured | None = None
    tries: int = 0

    @property
    def predicted(self) -> float:
        """What the plan should reach, in the unit of the goal."""
        return self.goal.reached(self.dense_cost, self.cost)

    @property
    def reached(self) -> float:
        """What it was measured to reach, in the unit of the goal; where nothing was timed, what was predicted."""
        return self.predicted if self.measured is None else self.goal.reached(self.measured.dense_ms, self.measured.ms)

    @property
    def off(self) -> float:
        """How much more the plan costs than was asked for, as a share; negative if it costs less."""
        if self.measured is None:
            return self.cost / self.goal.budget(self.dense_cost) - 1
        return self.measured.ms / self.goal.budget(self.measured.dense_ms) - 1

    @property
    def loss(self) -> float:
        """The estimates of all layers together."""
        return sum(decision.loss for decision in self.decisions)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unit = "ms" if self.goal.timed else "weights"
        table = frameless(f"Plan for {self.goal}", "weight")
        table.add_column("pattern", no_wrap=True)
        for column in ("density", f"dense\n{unit}", unit, "loss"):
            table.add_column(column, justify="right")
        table.add_column("why", overflow="fold")
        for decision in self.decisions:
            table.add_row(*map(Text, self._cells(decision)))
        dense_cost, cost = (sum(getattr(d, name) for d in self.decisions) for name in ("dense_cost", "cost"))
        if self.goal.timed:
            rest = max(0.0, self.dense_cost - dense_cost), max(0.0, self.cost - cost)
            table.add_row("the rest", "", "", *self._costs(*rest), "", "no plan changes it")
        table.add_section()
        table.add_row("whole network" if self.goal.timed else "all", "", "", *self._costs(self.dense_cost, self.cost))
        yield table
        yield from self._summary()

    def _cells(self, decision: Decision) -> tuple[str, ...]:
        share = decision.loss / self.loss if decision.entry is not None and self.loss > 0 else None
        return (
            decision.weight,
            "dense" if decision.entry is None else str(decision.entry.pattern),
            "" if decision.entry is None else f"{decision.entry.density:g}",
            *(self._costs(decision.dense_cost, decision.cost) if decision.dense_cost else ("", "")),
            "" if share is None else f"{share:.1%}",
            decision.why,
        )

    def _costs(self, *costs: float) -> tuple[str, ...]:
        return tuple(f"{cost:.3f}" if self.goal.timed else f"{cost:.0f}" for cost in costs)

    def _summary(self) -> Iterator[str]:
        yield f"asked for: {self.goal}; predicted: {self.goal.show(self.predicted)}"
        if self.measured is not None:
            tries = f"{self.tries} plan{'s' * (self.tries != 1)} tried"
            yield f"measured here: {self.goal.show(self.reached)} ({self.measured}; {tries})"
        elif self.goal.timed:
            yield "not measured: these are times of another machine, or of a target that this one cannot run"

    def __str__(self) -> str:
        console = Console(width=_WIDTH)
        with console.capture() as text:
            console.print(self, highlight=False)
        return text.get()
