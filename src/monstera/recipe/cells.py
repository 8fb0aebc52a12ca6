"""The cells of a stage: which there are, what each needs, and how one is run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from monstera.locks import locked
from monstera.recipe.choosing import read_chosen
from monstera.recipe.ingredients import Ingredients, gather
from monstera.recipe.result import done, make_diverged, write_result
from monstera.recipe.running import train_all
from monstera.recipe.study import Cell, Study, finals, read_study, trials
from monstera.training import DivergedError
from monstera.zoo.data import data_set


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a study, in plain values: any process can make its cells anew. See `run_study` for the fields."""

    path: str
    name: str
    overrides: Mapping[str, Any]
    only: tuple[str, ...]
    data: str | None
    runs: Path
    # What the result files give as the command, whichever process writes them.
    command: str

    @property
    def tries(self) -> bool:
        """Whether values are only tried, so that training which diverges is a result as well."""
        return self.name == "trials"

    def study(self) -> Study:
        """Read the study.

        Raises:
            RecipeError: the study, or a recipe in it, cannot be run; every field that is wrong is named.
        """
        return read_study(self.path, self.overrides)

    def cells(self, study: Study) -> list[Cell]:
        """What the stage is to run.

        Raises:
            ValueError: an unknown variant, or nothing was chosen yet.
        """
        if self.name == "trials":
            return trials(study, self.path, self.only)
        return finals(study, self.path, read_chosen(self.path), self.only)

    def gathering(self) -> Callable[[Cell], Ingredients]:
        """Give a function that reads and checks what a cell needs."""
        # Many recipes of one data set: it is read once.
        read = functools.lru_cache(maxsize=1)(data_set)
        # An order of channels that was searched for when a cell was checked serves when it is trained. What else a cell
        # needs is soon made again, and all of it at once might not fit in memory.
        pivoted: dict[str, Ingredients] = {}

        def things(cell: Cell) -> Ingredients:
            name = cell.recipe.name
            if name in pivoted:
                return pivoted.pop(name)
            made = gather(cell.recipe, f"{self.path}, {name}", self.data, read)
            if made.pivoting is not None:
                pivoted[name] = made
            return made

        return things

    def lock(self, cell: Cell, seed: int | None = None) -> Path:
        """The file by which processes take turns at a cell, or at one of its seeds."""
        return self.runs / f"{cell.recipe.name}{'' if seed is None else f'-seed-{seed}'}.lock"


def train_cell(
    stage: Stage,
    study: Study,
    cell: Cell,
    things: Callable[[Cell], Ingredients],
    console: Console,
    *,
    wait: bool = False,
) -> bool:
    """Run a cell, unless another process has done so meanwhile, or does so now: then return False."""
    recipe, facts = cell.recipe, cell.facts(study)
    with locked(stage.lock(cell), wait=wait) as mine:
        if not mine or done(recipe):
            return mine
        folder = stage.runs / recipe.name
        try:
            train_all(recipe, things(cell), folder, console, cell=facts, command=stage.command)
        except DivergedError as error:
            if not stage.tries:
                raise
            write_result(make_diverged(recipe, str(error)) | {"cell": facts}, Path(recipe.output))
            console.print(str(error), soft_wrap=True)
        return True
