"""Commands that train: a recipe, and a study of many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monstera.cli.app import DataFolder, app, overrides


@app.command()
def prune(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    data: DataFolder = None,
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
        overrides=overrides(settings),
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
    data: DataFolder = None,
    runs: Annotated[Path, typer.Option(help="Folder of checkpoints and locks.")] = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="Seeds to train at once, in processes of their own.")] = 1,
    settings: Annotated[list[str], typer.Option("--set", help="Replace a field: recipe.epochs=1; repeatable.")] = [],  # noqa: B006
) -> None:
    """Run a STAGE of a STUDY: what has a result is left alone. Several processes may share the work."""
    from monstera import recipe as recipes

    recipes.run_study(study, stage, overrides=overrides(settings), only=only, data=data, runs=runs, jobs=jobs)
