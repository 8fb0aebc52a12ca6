"""Many seeds of a stage at once, in processes of their own: for a GPU that one small network leaves idle."""

from __future__ import annotations

import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass

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
    recipes = sorted((cell.recipe for cell in cells), key=lambda recipe: -recipe.epochs)
    # A name without a seed stands for the cell's result.
    waiting: deque[tuple[str, int | None]] = deque((recipe.name, seed) for recipe in recipes for seed in recipe.seeds)
    left, total, elsewhere = Counter(name for name, _ in waiting), len(waiting), 0
    running: dict[Future[bool], tuple[str, int | None]] = {}
    errors: list[BaseException] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name, seed = waiting.popleft()
                future = pool.submit(_train_cell, name) if seed is None else pool.submit(_train_seed, name, seed)
                running[future] = name, seed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, seed = running.pop(future)
                error = future.exception()
                if error:
                    errors.append(error)
                    console.print(f"{name} failed: {error}", highlight=False, markup=False, soft_wrap=True)
                elif seed is None:
                    elsewhere += not future.result()
                else:
                    left[name] -= 1
                    console.print(f"{total - left.total()} of {total} seeds are done", soft_wrap=True)
                    if not left[name]:
                        # Before all that waits, so that what is trained is soon there to be seen.
                        waiting.appendleft((name, None))
        if errors:
            raise errors[0]
        return elsewhere
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


def _train_seed(name: str, seed: int) -> bool:
    here = _opened[0]
    cell, stage, recipe = here.cells[name], here.stage, here.cells[name].recipe
    # Others may train other seeds of the cell meanwhile, and none may take the cell as a whole.
    whole, own = locked(stage.lock(cell), shared=True, wait=False), locked(stage.lock(cell, seed), wait=False)
    with whole as free, own as mine:
        if not (free and mine) or done(recipe):
            return False
        checkpoint = stage.runs / recipe.name / f"seed-{seed}.pt"
        with torch_threads(recipe.threads), shown(here.console, f"{name}, seed {seed}") as show:
            try:
                train_seed(recipe, seed, here.things(cell), checkpoint, show)
            except DivergedError:
                # Where values are tried it is a result, which is made with that of the cell.
                if not stage.tries:
                    raise
        return True


def _train_cell(name: str) -> bool:
    here = _opened[0]
    return train_cell(here.stage, here.study, here.cells[name], here.things, here.console)
