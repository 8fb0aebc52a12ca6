"""Progress of a run or a search: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from monstera.recipe.report import Report
from monstera.search.searched import Tried

LINE_EVERY_S = 30.0


@contextmanager
def shown(console: Console, title: str, layers: bool = False) -> Iterator[Callable[[Report], None]]:
    """Give a function that shows each report: loss, density (of all `layers` if asked for), residuals, time left."""
    if not console.is_terminal:
        yield _Lines(console, title, layers)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, TextColumn("{task.fields[text]}"), console=console) as bar:
        task = bar.add_task(title, total=None, text="")

        def show(report: Report) -> None:
            pruning = report.pruning
            bar.update(task, total=pruning.steps, completed=pruning.step, text=_text(report, layers))

        yield show


class _Lines:
    """At most one line in `LINE_EVERY_S`, and one at the end."""

    def __init__(self, console: Console, title: str, layers: bool) -> None:
        self.console, self.title, self.layers = console, title, layers
        self.began, self.first, self.last = time.monotonic(), -1, 0.0

    def __call__(self, report: Report) -> None:
        step, steps = report.pruning.step, report.pruning.steps
        now = time.monotonic()
        if self.first < 0:
            self.began, self.first = now, step
        if now - self.last < LINE_EVERY_S and step < steps:
            return
        self.last = now
        left = (now - self.began) / max(1, step - self.first) * (steps - step)
        text = f"{self.title}: step {step} of {steps}, {_text(report, self.layers)}, {left:.0f} s left"
        self.console.print(text, soft_wrap=True)


def _text(report: Report, layers: bool) -> str:
    pruning = report.pruning
    text = f"epoch {report.epoch}, {pruning.phase}, loss {report.loss:.4f}, density {pruning.density:.3f}"
    if layers:
        text += f" ({', '.join(f'{name} {density:.3f}' for name, density in report.densities.items())})"
    if pruning.residuals is not None:
        text += f", residuals {pruning.residuals.primal:.1e} / {pruning.residuals.dual:.1e}"
    return text if pruning.divergence is None else f"{text}, {pruning.divergence}"


@contextmanager
def shown_trials(console: Console, title: str, total: int) -> Iterator[Callable[[Tried], None]]:
    """Give a function that shows each trial of a search, with the best so far: a bar, or lines in a log."""
    best: list[Tried] = []

    def text(trial: Tried) -> str:
        if not best or trial.reward > best[0].reward:
            best[:] = [trial]
        return f"best reward {best[0].reward:.4f} ({best[0].accuracy:.2%}, {best[0].ms:.4g} ms)"

    def done(trial: Tried) -> int:
        # Numbers of trials that failed are given again, so that they may go on behind what was asked for.
        return min(trial.number + 1, total)

    if not console.is_terminal:
        last = [0.0]

        def line(trial: Tried) -> None:
            told = text(trial)
            if time.monotonic() - last[0] >= LINE_EVERY_S or done(trial) == total:
                last[0] = time.monotonic()
                console.print(f"{title}: trial {done(trial)} of {total}, {told}", soft_wrap=True)

        yield line
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    times = TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, *times, TextColumn("{task.fields[text]}"), console=console) as bar:
        task = bar.add_task(title, total=total, text="")
        yield lambda trial: bar.update(task, completed=done(trial), text=text(trial))
