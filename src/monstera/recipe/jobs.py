"""Many seeds of a stage at once, in processes of their own."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.console import Console

from monstera.locks import locked
from monstera.measure.peers import torch_threads
from monstera.recipe.cells import Stage, train_cell
from monstera.recipe.display import shown
from monstera.recipe.ingredients import Ingredients
from monstera.recipe.result import done
from monstera.recipe.study import Cell, Study
from monstera.recipe.training import train_seed
from monstera.search.workers import LOOK_S, Processes
from monstera.training import DivergedError


def train_at_once(stage: Stage, cells: Sequence[Cell], jobs: int, console: Console) -> int:
    """Train cells, a seed in a process, `jobs` at once; long ones first, so that the last to end are short.

    A cell's result is made when all of its seeds are trained, from their checkpoints. A process that dies is replaced,
    and its seed goes on from its checkpoint. Where one fails the others go on, and the first of the errors is raised
    at the end.

    Returns:
        How many cells other processes have taken.
    """
    recipes = sorted((cell.recipe for cell in cells), key=lambda recipe: -recipe.epochs)
    # A name without a seed stands for the cell's result.
    waiting: deque[tuple[str, int | None]] = deque((recipe.name, seed) for recipe in recipes for seed in recipe.seeds)
    left, total, elsewhere = Counter(name for name, _ in waiting), len(waiting), 0
    given: dict[int, tuple[str, int | None]] = {}
    errors: list[Exception] = []
    numbers = itertools.count()
    crew = Processes(_Worker(stage), jobs)
    try:
        while waiting or given:
            while waiting and len(given) < crew.size:
                given[number := next(numbers)] = waiting.popleft()
                crew.submit(number, given[number])
            if (answer := crew.next(LOOK_S)) is None:
                continue
            number, came = answer
            name, seed = given.pop(number)
            if isinstance(came, Exception):
                errors.append(came)
                console.print(f"{name} failed: {came}", highlight=False, markup=False, soft_wrap=True)
            elif seed is None:
                elsewhere += not came
            else:
                left[name] -= 1
                console.print(f"{total - left.total()} of {total} seeds are done", soft_wrap=True)
                if not left[name]:
                    # Before all that waits, so that what is trained is soon there to be seen.
                    waiting.appendleft((name, None))
    finally:
        crew.close()
    if errors:
        raise errors[0]
    return elsewhere


@dataclass(frozen=True, slots=True)
class _Opened:
    """What a process has of the stage that it works on."""

    study: Study
    cells: Mapping[str, Cell]
    things: Callable[[Cell], Ingredients]
    console: Console


class _Worker:
    """Trains a seed of a cell, or makes a cell's result; opens the stage in the process that it comes to."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @cached_property
    def here(self) -> _Opened:
        study = self.stage.study()
        cells = {cell.recipe.name: cell for cell in self.stage.cells(study)}
        # Lines alone: bars of many processes would write over each other.
        return _Opened(study, cells, self.stage.gathering(), Console(force_terminal=False))

    def __call__(self, task: tuple[str, int | None]) -> bool:
        """Return whether it was this process that did it."""
        name, seed = task
        cell = self.here.cells[name]
        if seed is None:
            return train_cell(self.stage, self.here.study, cell, self.here.things, self.here.console)
        return self._train(cell, seed)

    def _train(self, cell: Cell, seed: int) -> bool:
        stage, recipe = self.stage, cell.recipe
        # Others may train other seeds of the cell meanwhile, and none may take the cell as a whole.
        whole, own = locked(stage.lock(cell), shared=True, wait=False), locked(stage.lock(cell, seed), wait=False)
        with whole as free, own as mine:
            if not (free and mine) or done(recipe):
                return False
            checkpoint = stage.runs / recipe.name / f"seed-{seed}.pt"
            with torch_threads(recipe.threads), shown(self.here.console, f"{recipe.name}, seed {seed}") as show:
                try:
                    train_seed(recipe, seed, self.here.things(cell), checkpoint, show)
                except DivergedError:
                    # Where values are tried it is a result, which is made with that of the cell.
                    if not stage.tries:
                        raise
            return True
