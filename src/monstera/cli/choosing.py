"""Commands that choose: what layers cost, a plan by rules or by search, network and holes together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from monstera.cli.app import DataFolder, TargetName, app, overrides


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
    target: TargetName = "native",
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
    data: DataFolder = None,
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
    recipes.run_search(recipe, goal, searching, judging=judging, overrides=overrides(settings), data=data)


@app.command()
def npas(
    config: Annotated[Path, typer.Argument(help="What is searched and how, a YAML file.")],
    data: DataFolder = None,
    settings: Annotated[list[str], typer.Option("--set", help="Replace a field: search.seed=1; repeatable.")] = [],  # noqa: B006
    workers: Annotated[int, typer.Option(help="Processes that evaluate at once.")] = 1,
    measure_again: Annotated[
        bool, typer.Option("--measure-again", help="Measure the finalists' latencies anew.")
    ] = False,
) -> None:
    """Search network and holes together by CONFIG (NPAS); what was interrupted goes on."""
    from monstera import recipe as recipes

    replaced = overrides(settings)
    recipes.run_npas(config, overrides=replaced, data=data, workers=workers, measure_again=measure_again)


@app.command()
def costs(
    subject: Annotated[str, typer.Argument(metavar="NETWORK|FILE", help="A network of the zoo, or a cost table.")],
    patterns: Annotated[list[str], typer.Option("--pattern", help="Pattern to measure; repeatable.")] = ["4x1"],  # noqa: B006
    densities: Annotated[
        list[float] | None, typer.Option("--density", help="Where to measure, else 0.5 down to 0.03; repeatable.")
    ] = None,
    shape: Annotated[str, typer.Option("--input", help="CxHxW, CxTxHxW, TxF or a context, else the usual.")] = "",
    threads: Annotated[int, typer.Option(min=1, help="Threads of a call.")] = 1,
    target: TargetName = "native",
    table: Annotated[Path | None, typer.Option(help="Table of another machine: nothing is measured.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write all that this machine has measured to a file.")] = None,
) -> None:
    """Measure what the layers of a NETWORK cost here, or show what a table in a FILE holds."""
    from monstera import measure, zoo
    from monstera.search import costs as search_costs
    from monstera.search.costs.costing import DENSITIES

    if table is not None and export is not None:
        raise ValueError(
            "--export writes what this machine has measured, and with --table nothing is; give one of them"
        )
    console = Console()
    if Path(subject).is_file():
        console.print(search_costs.table_shown(search_costs.read_costs(subject)))
        return
    found = search_costs.costs_of(
        zoo.network(subject).eval(),
        measure.example(subject, measure.input_size(subject, shape)),
        patterns=patterns,
        densities=densities or DENSITIES,
        threads=threads,
        target=target,
        table=table,
    )
    console.print(search_costs.costs_shown(found))
    if export is not None:
        from monstera.compiler.targets import target_named

        search_costs.write_costs(search_costs.cached_costs(target_named(target)), export)
        console.print(f"written to {export}", style="dim", markup=False)
