"""The command that shows the whole way: the demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from monstera.cli.app import app

if TYPE_CHECKING:
    from monstera.demo import Outcome
    from monstera.report import Table


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the two compiled programs go.")] = Path("runs/demo"),
    threads: Annotated[int, typer.Option(help="Threads of every engine while times are taken.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
) -> None:
    """Handwritten digits, the whole way: train, prune, compile, compare. Takes minutes and downloads nothing."""
    from monstera import demo as show
    from monstera.report import circumstances, terminal

    console = Console()
    settings = show.Settings(threads=threads, seed=seed)
    with _bars(console) as bars:
        tasks = {stage: bars.add_task(stage, total=1.0, start=False) for stage in show.STAGES}

        def progress(stage: str, done: float) -> None:
            bars.start_task(tasks[stage])
            bars.update(tasks[stage], completed=done)

        outcome = show.run(settings, folder, progress)
    console.print(terminal(_demo_table(outcome)))
    console.print(circumstances(outcome.comparison), style="dim", markup=False)
    program = folder / "digits-sparse.monstera"
    console.print(f"The programs are in {folder}. Next: monstera profile {program}", markup=False)


def _demo_table(outcome: Outcome) -> Table:
    from monstera.measure import MONSTERA, Row
    from monstera.report import columns, comparison_table

    def accuracy(row: Row) -> str:
        return f"{outcome.accuracy[row.weights]:.1%}"

    def size(row: Row) -> str:
        ours = row.engine == MONSTERA.name
        return f"{(outcome.program_bytes[row.weights] if ours else outcome.weights_bytes) / 1024:.0f} KiB"

    figures = columns(outcome.comparison)
    # What a window of 80 columns has room for; the rest is in the other tables.
    shown = {title: figures[title] for title in figures if title == "ms" or title.startswith("against")}
    return comparison_table(outcome.comparison, {"accuracy": accuracy, "size": size, **shown})


def _bars(console: Console) -> Any:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console)
