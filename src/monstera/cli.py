"""The command line: parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

if TYPE_CHECKING:
    from monstera.demo import Outcome
    from monstera.report import Table

# What the library raises for people; anything else is a bug, and then the traceback is the message.
_FOR_PEOPLE = (ValueError, TypeError, OSError, RuntimeError, ImportError)


class _Commands(TyperGroup):
    """The commands, with errors of the library shown as a message."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _FOR_PEOPLE as reason:
            # typer leaves by way of RuntimeErrors too.
            if ctx.params["debug"] or isinstance(reason, (typer.Exit, typer.Abort)):
                raise
            Console(stderr=True).print(f"[bold red]error:[/] {_message(reason)}", soft_wrap=True, highlight=False)
            raise typer.Exit(1) from reason


app = typer.Typer(
    cls=_Commands,
    help="Prune networks into shapes that hardware likes, and compile them to native programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False) -> None:
    """Prune networks into shapes that hardware likes, and compile them to native programs."""


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


@app.command()
def prune(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    data: Annotated[Path | None, typer.Option(help="Data folder; else MONSTERA_DATA or ../shared/data.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = Path("runs"),
    settings: Annotated[list[str], typer.Option("--set", help="Replace a field: epochs=1; repeatable.")] = [],  # noqa: B006
    latency: Annotated[bool, typer.Option(help="Measure latency at the end.")] = True,
    measure_only: Annotated[bool, typer.Option(help="Train nothing: measure the committed weights again.")] = False,
    fresh: Annotated[bool, typer.Option(help="Throw checkpoints away instead of going on from them.")] = False,
    log_every: Annotated[int, typer.Option(help="Steps between two lines of the log beside the checkpoint.")] = 10,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves for TensorBoard, too.")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Show the density of every layer.")] = False,
) -> None:
    """Prune by RECIPE: train, prune, test, measure; an interrupted run goes on where it was."""
    from monstera import recipe as recipes

    recipes.run(
        recipe,
        overrides=_overrides(settings),
        data=data,
        runs=runs,
        latency=latency,
        measure_only=measure_only,
        fresh=fresh,
        log_every=log_every,
        tensorboard=tensorboard,
        layers=layers,
    )


@app.command()
def study(
    study: Annotated[Path, typer.Argument(help="The study, a YAML file: a recipe and its variants.")],
    stage: Annotated[str, typer.Argument(help="trials, choose, finals or measure, in this order.")],
    only: Annotated[list[str], typer.Option(help="Run this variant alone; repeatable.")] = [],  # noqa: B006
    data: Annotated[Path | None, typer.Option(help="Data folder; else MONSTERA_DATA or ../shared/data.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of checkpoints and locks.")] = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="Seeds to train at once, in processes of their own.")] = 1,
    settings: Annotated[list[str], typer.Option("--set", help="Replace a field: recipe.epochs=1; repeatable.")] = [],  # noqa: B006
) -> None:
    """Run a STAGE of a STUDY: what has a result is left alone. Several processes may share the work."""
    from monstera import recipe as recipes

    recipes.run_study(study, stage, overrides=_overrides(settings), only=only, data=data, runs=runs, jobs=jobs)


@app.command()
def plan(
    network: Annotated[str, typer.Argument(help="A network of the zoo; an unknown name lists the known.")],
    speedup: Annotated[float | None, typer.Option(help="Times faster than our own dense engine.")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Or: milliseconds of a call.")] = None,
    density: Annotated[float | None, typer.Option(help="Or: kept share of the weights; nothing is timed.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the plan to this YAML file.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Its weights, a safetensors file; random if left out.")] = None,
    shape: Annotated[str, typer.Option("--input", help="CxHxW or CxTxHxW; the usual size if left out.")] = "",
    patterns: Annotated[list[str], typer.Option("--pattern", help="A candidate; repeatable.")] = [],  # noqa: B006
    hard: Annotated[bool, typer.Option("--hard", help="Kernel patterns in 3x3 convolutions, for hard tasks.")] = False,
    threads: Annotated[int, typer.Option(help="Threads of the engine.")] = 1,
    target: Annotated[str, typer.Option(help="Instruction set: native, avx512, avx2 or neon.")] = "native",
    table: Annotated[Path | None, typer.Option(help="Costs measured before, maybe on another machine.")] = None,
) -> None:
    """Choose which holes NETWORK gets, layer by layer, for a speedup, a latency or a density, and say why."""
    from monstera import measure, search

    size = measure.input_size(network, shape)
    example = measure.example(network, size)
    if weights is None:
        model = measure.dense_network(network, measure.example(network, size, 2))
    else:
        model = measure.trained_network(network, weights)
    found = search.plan(
        model,
        example,
        speedup=speedup,
        latency_ms=latency_ms,
        density=density,
        patterns=patterns or None,
        hard=hard,
        threads=threads,
        target=target,
        table=table,
    )
    console = Console()
    if weights is None:
        told = "how fast a network gets, not" if density is None else "nothing of"
        console.print(f"Random weights: the plan says {told} what matters.", style="dim")
    if out is not None:
        found.save(out)
        console.print(f"written to {out}", style="dim", markup=False)


@app.command()
def npas(
    config: Annotated[Path, typer.Argument(help="What is searched and how, a YAML file.")],
    data: Annotated[Path | None, typer.Option(help="Data folder; else MONSTERA_DATA or ../shared/data.")] = None,
    settings: Annotated[list[str], typer.Option("--set", help="Replace a field: search.seed=1; repeatable.")] = [],  # noqa: B006
    workers: Annotated[int, typer.Option(help="Processes that evaluate at once.")] = 1,
    measure_again: Annotated[
        bool, typer.Option("--measure-again", help="Measure the finalists' latencies anew.")
    ] = False,
) -> None:
    """Search network and holes together by CONFIG (NPAS); what was interrupted goes on."""
    from monstera import recipe as recipes

    overrides = _overrides(settings)
    recipes.run_npas(config, overrides=overrides, data=data, workers=workers, measure_again=measure_again)


@app.command()
def profile(
    program: Annotated[Path, typer.Argument(help="A .monstera file. It is executable code: trust it first.")],
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs; medians are shown.")] = 20,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show how the weights lie, too: blocks, zeros, predicted ms.")
    ] = False,
    shape: Annotated[int, typer.Option(min=0, help="Which of the shapes that `inspect` lists, from 0.")] = 0,
) -> None:
    """Time every layer of a compiled PROGRAM on random inputs."""
    from monstera.runtime import load

    engine = load(program)
    console = Console()
    console.print(str(engine), highlight=False, markup=False)
    console.print(str(engine.memory), highlight=False)
    times = engine.profile(rounds=rounds, shape=shape)
    console.print(str(times), highlight=False, soft_wrap=True, markup=False)
    if plan:
        console.print(f"\n{engine.plan(times, shape=shape)}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def inspect(
    program: Annotated[Path, typer.Argument(help="A .monstera file; none of it is run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Show what a compiled PROGRAM is: machine, parts with their checksums, signature and layers for each shape."""
    from monstera.runtime import open_artifact

    opened = open_artifact(program)
    if as_json:
        from monstera.runtime.verify import facts

        Console(soft_wrap=True).print_json(data=facts(opened), sort_keys=True)
        return
    from monstera.program import description

    Console().print(description(opened))


@app.command()
def verify(
    program: Annotated[Path, typer.Argument(help="A .monstera file; none of it is run.")],
    sha256: Annotated[str | None, typer.Option(help="The digest that it must have.")] = None,
) -> None:
    """Check a compiled PROGRAM, part by part: exit code 0 if it is sound, 1 if not.

    Checksums find damage, not malice. To know that a file is the one you trust, give its digest.
    """
    from monstera.program import checks

    console = Console()
    for check in checks(program, sha256):
        console.print(f"ok  {check}", highlight=False, soft_wrap=True, markup=False)


@app.command("export-c")
def export_c(
    program: Annotated[Path, typer.Argument(help="A .monstera file, for whatever machine it was compiled.")],
    folder: Annotated[Path, typer.Argument(help="Where the files go; files of the same names are replaced.")],
) -> None:
    """Write a compiled PROGRAM into FOLDER as C source, header and weights, for a program without Python."""
    from monstera.runtime import export_c, read_artifact

    export_c(read_artifact(program), folder)
    files = "net.c, net.h, net.mk, weights.safetensors, README.md"
    Console().print(f"{folder}: {files}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def search(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file, with data.held_out pictures to judge by.")],
    latency_ms: Annotated[float | None, typer.Option(help="Budget of a call on one picture.")] = None,
    speedup: Annotated[float | None, typer.Option(help="Or so many times faster than our own dense engine.")] = None,
    samplers: Annotated[
        list[str] | None, typer.Option("--sampler", help="rl (the default), tpe, evolution, random; repeatable.")
    ] = None,
    seeds: Annotated[list[int], typer.Option("--seed", help="A study for each; repeatable.")] = [0],  # noqa: B006
    trials: Annotated[int, typer.Option(min=1, help="Trials of a study, in all.")] = 60,
    patterns: Annotated[list[str], typer.Option("--pattern", help="What layers may be; repeatable.")] = [],  # noqa: B006
    densities: Annotated[list[float], typer.Option("--density", help="And how dense; repeatable.")] = [],  # noqa: B006
    pictures: Annotated[int, typer.Option(min=1, help="Held-out pictures that judge a plan.")] = 2000,
    statistics: Annotated[int, typer.Option(min=1, help="Batches for batch norm.")] = 20,
    tuning_steps: Annotated[int, typer.Option(min=0, help="Steps of training before a plan is judged.")] = 0,
    first: Annotated[list[Path], typer.Option(help="Plan file to try first; repeatable.")] = [],  # noqa: B006
    storage: Annotated[str, typer.Option(help="SQLite file of the studies, or the URL of a database.")] = (
        "runs/studies.db"
    ),
    workers: Annotated[str, typer.Option(help="Evaluations at once, or ray.")] = "1",
    threads: Annotated[int, typer.Option(min=1, help="Threads of an evaluation, and of a call.")] = 1,
    table: Annotated[Path | None, typer.Option(help="Cost table of another machine: nothing is measured.")] = None,
    folder: Annotated[Path, typer.Option(help="Where results and plans go.")] = Path("runs/search"),
    data: Annotated[Path | None, typer.Option(help="Data folder; else MONSTERA_DATA or ../shared/data.")] = None,
    settings: Annotated[list[str], typer.Option("--set", help="Replace a field of the recipe; repeatable.")] = [],  # noqa: B006
) -> None:
    """Search the most accurate plan within a budget for a RECIPE's network; a killed search goes on where it was."""
    from monstera import recipe as recipes
    from monstera.search import Goal

    if workers != "ray" and not workers.isdecimal():
        raise ValueError(f"--workers: expected a number or ray, got {workers!r}")
    searching = recipes.Searching(
        samplers=tuple(samplers or ["rl"]),
        seeds=tuple(seeds),
        trials=trials,
        patterns=tuple(patterns),
        densities=tuple(densities),
        first=tuple(first),
        storage=storage,
        workers="ray" if workers == "ray" else int(workers),
        threads=threads,
        table=table,
        folder=folder,
    )
    judging = recipes.Judging(pictures=pictures, statistics=statistics, tuning_steps=tuning_steps)
    goal = Goal(speedup, latency_ms)
    recipes.run_search(recipe, goal, searching, judging=judging, overrides=_overrides(settings), data=data)


@app.command()
def costs(
    subject: Annotated[str, typer.Argument(metavar="NETWORK|FILE", help="A network of the zoo, or a cost table.")],
    patterns: Annotated[list[str], typer.Option("--pattern", help="Pattern to measure; repeatable.")] = ["4x1"],  # noqa: B006
    densities: Annotated[
        list[float] | None, typer.Option("--density", help="Where to measure, else 0.5 down to 0.03; repeatable.")
    ] = None,
    shape: Annotated[str, typer.Option("--input", help="CxHxW, CxTxHxW, TxF or a context, else the usual.")] = "",
    threads: Annotated[int, typer.Option(min=1, help="Threads of a call.")] = 1,
    table: Annotated[Path | None, typer.Option(help="Table of another machine: nothing is measured.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write all that this machine has measured to a file.")] = None,
) -> None:
    """Measure what the layers of a NETWORK cost here, or show what a table in a FILE holds."""
    from monstera.search import costs as search_costs

    if table is not None and export is not None:
        raise ValueError(
            "--export writes what this machine has measured, and with --table nothing is; give one of them"
        )
    console = Console()
    if Path(subject).is_file():
        console.print(search_costs.table_shown(search_costs.read_costs(subject)))
        return
    found = _costs_of(subject, shape, patterns, densities, threads, table)
    console.print(search_costs.costs_shown(found))
    if export is not None:
        from monstera.compiler.targets import native

        search_costs.write_costs(search_costs.cached_costs(native()), export)
        console.print(f"written to {export}", style="dim", markup=False)


def main() -> None:
    """Run the command line."""
    app()


def _costs_of(
    name: str, shape: str, patterns: list[str], densities: list[float] | None, threads: int, table: Path | None
) -> Any:
    from monstera import measure, zoo
    from monstera.search.costs import costs_of
    from monstera.search.costs.costing import DENSITIES

    example = measure.example(name, measure.input_size(name, shape))
    network = zoo.network(name).eval()
    densities = densities or [*DENSITIES]
    return costs_of(network, example, patterns=patterns, densities=densities, threads=threads, table=table)


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


def _overrides(settings: list[str]) -> dict[str, Any]:
    import yaml

    pairs = [setting.partition("=") for setting in settings]
    if wrong := [name for name, equals, _ in pairs if not name or not equals]:
        raise ValueError(f"--set: expected FIELD=VALUE such as epochs=1, got {wrong[0]!r}")
    return {name: yaml.safe_load(value) for name, _, value in pairs}


def _message(reason: BaseException) -> str:
    from rich.markup import escape

    if isinstance(reason, OSError) and reason.filename is not None:
        return escape(f"{reason.filename}: {reason.strerror}")
    return escape(str(reason) or type(reason).__name__)


if __name__ == "__main__":
    main()
