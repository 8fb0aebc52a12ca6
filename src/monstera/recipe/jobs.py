"""Many seeds of a stage at once, in processes of their own: for a GPU that one small network leaves idle."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from monstera.locks import locked
from monstera.measure.peers import torch_threads
from monstera.recipe.cells import Stage, train_cell
from monstera.recipe.display import shown
from monstera.recipe.ingredients import Ingredients
from monstera.recipe.result import done
from monstera.recipe.study import Cell, Study
from monstera.recipe.training import train_seed
from monstera.training import DivergedError


def train_at_once(stage: Stage, cells: Sequence[Cell], jobs: int, console: Console) -> int:
    """Train cells, a seed in a process, `jobs` at once; long ones first, so that the last to end are short.

    A cell's result is made when all of its seeds are trained, from their checkpoints. Where one fails the others go on,
    and the first of the errors is raised at the end.

    Returns:
        How many cells other processes have taken.
    """
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _open, (stage,))
    try:
        seeds: dict[Future[Any], str] = {}
        for recipe in sorted((cell.recipe for cell in cells), key=lambda recipe: -recipe.epochs):
            seeds |= {pool.submit(_train_seed, recipe.name, seed): recipe.name for seed in recipe.seeds}
        left, errors, results = Counter(seeds.values()), [], []
        for count, future in enumerate(as_completed(seeds), 1):
            name, error = seeds[future], future.exception()
            errors += [error] if error else []
            left[name] -= not error
            said = f"failed: {error}" if error else "is trained"
            console.print(f"{count} of {len(seeds)} seeds: one of {name} {said}", highlight=False, soft_wrap=True)
            if not left[name]:
                results.append(pool.submit(_train_cell, name))
        errors += [error for result in results if (error := result.exception())]
        if errors:
            raise errors[0]
        return sum(not result.result() for result in results)
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What a process has of the stage that it works on."""

    stage: Stage
    study: Study
    cells: Mapping[str, Cell]
    things: Callable[[Cell], Ingredients]
    console: Console


_opened: list[_Opened] = []


def _open(stage: Stage) -> None:
    study = stage.study()
    cells = {cell.recipe.name: cell for cell in stage.cells(study)}
    # Lines alone: bars of many processes would write over each other.
    _opened[:] = [_Opened(stage, study, cells, stage.gathering(), Console(force_terminal=False))]


def _train_seed(name: str, seed: int) -> None:
    here = _opened[0]
    cell, stage, recipe = here.cells[name], here.stage, here.cells[name].recipe
    # Others may train other seeds of the cell meanwhile, and none may take the cell as a whole.
    whole, own = locked(stage.lock(cell), shared=True, wait=False), locked(stage.lock(cell, seed), wait=False)
    with whole as free, own as mine:
        if not (free and mine) or done(recipe):
            return
        checkpoint = stage.runs / recipe.name / f"seed-{seed}.pt"
        with torch_threads(recipe.threads), shown(here.console, f"{name}, seed {seed}") as show:
            try:
                train_seed(recipe, seed, here.things(cell), checkpoint, show)
            except DivergedError:
                # Where values are tried it is a result, which is made with that of the cell.
                if not stage.tries:
                    raise


def _train_cell(name: str) -> bool:
    here = _opened[0]
    return train_cell(here.stage, here.study, here.cells[name], here.things, here.console)
