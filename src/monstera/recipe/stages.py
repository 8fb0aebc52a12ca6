"""The stages of a study: trials, choose, finals, measure; several processes may work on one stage at once."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from monstera.locks import locked
from monstera.recipe.choosing import choose, chosen_path, read_chosen
from monstera.recipe.ingredients import Ingredients, gather
from monstera.recipe.result import done, make_diverged, write_result
from monstera.recipe.running import measure_again, train_all
from monstera.recipe.study import DENSE, Cell, Study, finals, read_study, trials
from monstera.training import DivergedError
from monstera.zoo.data import data_set

STAGES = ("trials", "choose", "finals", "measure")


def run_study(
    path: str | os.PathLike[str],
    stage: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    data: str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] = "runs",
    console: Console | None = None,
) -> None:
    """Run a stage of the study at `path`: what has a result is left alone, what was interrupted goes on.

    Args:
        stage: "trials" trains with each value that is to be tried, on all but the held-out pictures; "choose" writes
            the best of them into `chosen.json`; "finals" trains with these; "measure" adds latencies to the results.
        overrides: fields of the study to replace, nested ones by dotted names: `{"recipe.epochs": 1}`.
        only: the variants to run; default all.
        data: the data folder, see `monstera.zoo.data.data_root`.
        runs: the folder for checkpoints and locks, which processes that share the work must share.

    Raises:
        RecipeError: the study, or a recipe in it, cannot be run; every field that is wrong is named.
        ValueError: an unknown stage or variant, nothing was chosen yet, or a result of another recipe is in the way.
    """
    if stage not in STAGES:
        raise ValueError(f"no stage is called {stage!r}; known: {', '.join(STAGES)}")
    study, console = read_study(path, overrides), console or Console()
    if stage == "choose":
        _choose(study, path, console)
        return
    cells = trials(study, path, only) if stage == "trials" else finals(study, path, read_chosen(path), only)
    # Many recipes of one data set: it is read once.
    read = functools.lru_cache(maxsize=1)(data_set)
    # An order of channels that was searched for when a cell was checked serves when it is trained. What else a cell
    # needs is soon made again, and all of it at once might not fit in memory.
    pivoted: dict[str, Ingredients] = {}

    def things(cell: Cell) -> Ingredients:
        name = cell.recipe.name
        if name in pivoted:
            return pivoted.pop(name)
        made = gather(cell.recipe, f"{os.fspath(path)}, {name}", data, read)
        if made.pivoting is not None:
            pivoted[name] = made
        return made

    if stage == "measure":
        for cell in cells:
            measure_again(cell.recipe, things(cell), console)
        return
    _train(study, cells, things, Path(runs), console, tried=stage == "trials")


def _train(
    study: Study,
    cells: Sequence[Cell],
    things: Callable[[Cell], Ingredients],
    runs: Path,
    console: Console,
    *,
    tried: bool,
) -> None:
    pending = [cell for cell in cells if not done(cell.recipe)]
    console.print(f"{study.name}: {len(cells) - len(pending)} of {len(cells)} are done", soft_wrap=True)
    for cell in [cell for cell in pending if cell.variant == DENSE]:
        _train_cell(study, cell, things, runs, console, wait=True, tried=False)
    rest = [cell for cell in pending if cell.variant != DENSE]
    # A pattern that does not fit is told now, not hours later.
    for cell in rest:
        things(cell)
    elsewhere = 0
    for index, cell in enumerate(rest):
        console.print(f"{study.name}: {index + 1} of {len(rest)}, {cell.recipe.name}", soft_wrap=True)
        elsewhere += not _train_cell(study, cell, things, runs, console, wait=False, tried=tried)
    if elsewhere:
        console.print(f"{study.name}: {elsewhere} are being run by other processes", soft_wrap=True)


def _train_cell(
    study: Study,
    cell: Cell,
    things: Callable[[Cell], Ingredients],
    runs: Path,
    console: Console,
    *,
    wait: bool,
    tried: bool,
) -> bool:
    """Run a cell, unless another process has done so meanwhile, or does so now: then return False.

    That a value which is only `tried` makes training diverge is a result as well.
    """
    recipe = cell.recipe
    with locked(runs / f"{recipe.name}.lock", wait=wait) as mine:
        if not mine or done(recipe):
            return mine
        try:
            train_all(recipe, things(cell), runs / recipe.name, console, cell=cell.facts(study))
        except DivergedError as error:
            if not tried:
                raise
            write_result(make_diverged(recipe, str(error)) | {"cell": cell.facts(study)}, Path(recipe.output))
            console.print(str(error), soft_wrap=True)
        return True


def _choose(study: Study, path: str | os.PathLike[str], console: Console) -> None:
    chosen, missing = choose(study, path)
    for name, entry in chosen["values"].items():
        tries = ", ".join(f"{one['value']}: {_shown(one['accuracy'])}" for one in entry["tries"])
        console.print(f"{name}: {entry['value']} ({tries})", highlight=False, markup=False, soft_wrap=True)
    told = f"; trials are missing, so nothing was chosen for {', '.join(missing)}" if missing else ""
    console.print(f"{chosen_path(path)} written{told}", highlight=False, markup=False, soft_wrap=True)


def _shown(accuracy: float | None) -> str:
    return "diverged" if accuracy is None else f"{accuracy:.2%}"
