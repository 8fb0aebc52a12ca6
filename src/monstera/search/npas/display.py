"""Progress of a search: a bar on a terminal, a line for each outcome in a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from monstera.search.npas.outcome import Outcome
from monstera.search.npas.result import Drift


class Show:
    """Nothing shown: what a search without a console tells."""

    def outcome(self, outcome: Outcome, reward: float) -> None:
        """Tell of an evaluated scheme."""

    def drift(self, drift: Drift) -> None:
        """Tell of anchors evaluated again."""


class _Shown(Show):
    def __init__(self, console: Console, total: int, bar: Progress | None) -> None:
        self.console, self.total, self.bar = console, total, bar
        self.done, self.best = 0, float("-inf")
        self.task = None if bar is None else bar.add_task("schemes", total=total, text="")

    def outcome(self, outcome: Outcome, reward: float) -> None:
        self.done, self.best = self.done + 1, max(self.best, reward)
        text = f"accuracy {outcome.accuracy:.4f}, {outcome.ms:.3f} ms, reward {reward:.4f}, best {self.best:.4f}"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=self.done, text=text)
        else:
            self.console.print(f"scheme {self.done} of {self.total}: {text}", soft_wrap=True)

    def drift(self, drift: Drift) -> None:
        text = f"accuracy {drift.accuracy:+.4f}, ms x{drift.ms:.3f}"
        self.console.print(f"anchors after round {drift.round}: {text}", soft_wrap=True)


@contextmanager
def shown(console: Console | None, total: int) -> Iterator[Show]:
    """Give what shows the outcomes of a search of `total` evaluations."""
    if console is None:
        yield Show()
    elif not console.is_terminal:
        yield _Shown(console, total, None)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[text]}"))
        with Progress(*columns, *times, console=console) as bar:
            yield _Shown(console, total, bar)
