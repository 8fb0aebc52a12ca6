"""The stages of a study: trials, choose, finals, measure; several processes may work on one stage at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from monstera.recipe.cells import Stage, train_cell
from monstera.recipe.choosing import choose, chosen_path
from monstera.recipe.jobs import train_at_once
from monstera.recipe.result import done
from monstera.recipe.running import measure_again, own_command
from monstera.recipe.study import DENSE, Study

STAGES = ("trials", "choose", "finals", "measure")


def run_study(
    path: str | os.PathLike[str],
    stage: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    data: str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] = "runs",
    jobs: int = 1,
    console: Console | None = None,
) -> None:
    """Run a stage of the study at `path`: what has a result is left alone, what was interrupted goes on.

    Args:
        stage: "trials" trains with each value that is to be tried, on all but the held-out pictures; "choose" writes
            the best of them into `chosen.json`; "finals" trains with these; "measure" adds latencies to the results
            that are there.
        overrides: fields of the study to replace, nested ones by dotted names: `{"recipe.epochs": 1}`.
        only: the variants to run; default all.
        data: the data folder, see `monstera.zoo.data.data_root`.
        runs: the folder for checkpoints and locks, which processes that share the work must share.
        jobs: how many seeds to train at once, in processes of their own.

    Raises:
        RecipeError: the study, or a recipe in it, cannot be run; every field that is wrong is named.
        ValueError: an unknown stage or variant, no job, nothing was chosen yet, or a result of another recipe is in
            the way.
    """
    if stage not in STAGES:
        raise ValueError(f"no stage is called {stage!r}; known: {', '.join(STAGES)}")
    if jobs < 1:
        raise ValueError(f"jobs: expected at least 1 process, got {jobs}")
    root = None if data is None else os.fspath(data)
    asked = Stage(os.fspath(path), stage, dict(overrides or {}), tuple(only), root, Path(runs), own_command())
    study, console = asked.study(), console or Console()
    if stage == "choose":
        _choose(study, path, console)
    elif stage == "measure":
        things = asked.gathering()
        for cell in asked.cells(study):
            if Path(cell.recipe.output).is_file():
                measure_again(cell.recipe, things(cell), console)
            else:
                console.print(f"{cell.recipe.name} has no result yet", soft_wrap=True)
    else:
        _train(asked, study, jobs, console)


def _train(stage: Stage, study: Study, jobs: int, console: Console) -> None:
    cells, things = stage.cells(study), stage.gathering()
    pending = [cell for cell in cells if not done(cell.recipe)]
    console.print(f"{study.name}: {len(cells) - len(pending)} of {len(cells)} are done", soft_wrap=True)
    for cell in [cell for cell in pending if cell.variant == DENSE]:
        train_cell(stage, study, cell, things, console, wait=True)
    rest = [cell for cell in pending if cell.variant != DENSE]
    # A pattern that does not fit is told now, not hours later.
    for cell in rest:
        things(cell)
    elsewhere = 0
    if jobs > 1 and rest:
        elsewhere = train_at_once(stage, rest, jobs, console)
    else:
        for index, cell in enumerate(rest):
            console.print(f"{study.name}: {index + 1} of {len(rest)}, {cell.recipe.name}", soft_wrap=True)
            elsewhere += not train_cell(stage, study, cell, things, console)
    if elsewhere:
        console.print(f"{study.name}: {elsewhere} are being run by other processes", soft_wrap=True)


def _choose(study: Study, path: str | os.PathLike[str], console: Console) -> None:
    chosen, missing = choose(study, path)
    for name, entry in chosen["values"].items():
        tries = ", ".join(f"{one['value']}: {_shown(one['accuracy'])}" for one in entry["tries"])
        console.print(f"{name}: {entry['value']} ({tries})", highlight=False, markup=False, soft_wrap=True)
    told = f"; trials are missing, so nothing was chosen for {', '.join(missing)}" if missing else ""
    console.print(f"{chosen_path(path)} written{told}", highlight=False, markup=False, soft_wrap=True)


def _shown(accuracy: float | None) -> str:
    return "diverged" if accuracy is None else f"{accuracy:.2%}"
