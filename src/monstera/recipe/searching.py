"""Search a plan for the network, the weights and the held-out pictures of a recipe."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from monstera.measure.peers import torch_threads
from monstera.pruning.streams import stream
from monstera.recipe.display import LINE_EVERY_S
from monstera.recipe.errors import RecipeError
from monstera.recipe.ingredients import Ingredients, gather, make_network
from monstera.recipe.reading import read_recipe
from monstera.recipe.schema import Recipe
from monstera.search.cost import Costs
from monstera.search.costs import costs_of
from monstera.search.evaluation import FastAccuracy, ShortTuning
from monstera.search.mapping import search_plan
from monstera.search.objective import Objective
from monstera.search.pareto import Candidate, Pareto, layers_of, write_pareto
from monstera.search.searched import SearchResult, Tried, write_search
from monstera.search.space import DENSITIES, PATTERNS, Space
from monstera.sparsity import Plan


@dataclass(frozen=True, slots=True)
class Judging:
    """How a trial judges: on so many held-out pictures, after batch norm has seen so many batches of training ones.

    With `tuning_steps`, as many steps of training under the holes come before, of learning rate `tuning_lr`.

    Raises:
        ValueError: a count below 1, or a negative number of steps.
    """

    pictures: int = 2000
    statistics: int = 20
    batch: int = 100
    tuning_steps: int = 0
    tuning_lr: float = 0.01

    def __post_init__(self) -> None:
        if min(self.pictures, self.statistics, self.batch) < 1 or self.tuning_steps < 0:
            raise ValueError(f"judging: expected counts from 1 and tuning_steps from 0, got {self}")

    def __str__(self) -> str:
        tuned = f"tuned for {self.tuning_steps} steps" if self.tuning_steps else "pruned at once"
        return f"{self.pictures} held-out training pictures, {tuned}"


def run_search(
    path: str | os.PathLike[str],
    *,
    latency_ms: float | None = None,
    speedup: float | None = None,
    samplers: Sequence[str] = ("rl",),
    seeds: Sequence[int] = (0,),
    trials: int = 60,
    patterns: Sequence[str] = (),
    densities: Sequence[float] = (),
    judging: Judging = Judging(),
    first: Sequence[str | os.PathLike[str]] = (),
    storage: str = "runs/studies.db",
    workers: int | Literal["ray"] = 1,
    threads: int = 1,
    table: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] = "runs/search",
    overrides: Mapping[str, Any] | None = None,
    data: str | os.PathLike[str] | None = None,
    console: Console | None = None,
) -> Pareto:
    """Search for each sampler and seed, and write results, plans and what can be had into `folder`.

    The pictures that the recipe holds out of training judge the plans; test pictures are not looked at. What comes out
    is for choosing: pruned by the recipe with `plan: {file: ...}`, the network is tested on pictures that the search
    never saw.

    Args:
        latency_ms, speedup: the budget of a call on one picture; speedup is against our own dense engine, as predicted.
        samplers, seeds: a study for each pair, all of as many trials.
        patterns, densities: what layers may be; default those of `Space`.
        first: plan files that every study tries first.
        workers, threads, storage: as for `search_plan`.
        table: a cost table of another machine; by default costs are measured here.
        overrides, data: as for `run`.

    Returns:
        What was written to `<recipe's name>.pareto.json`.

    Raises:
        RecipeError: the recipe cannot be used; every field that is wrong is named.
        ValueError: not one of `latency_ms` and `speedup` is given, or what `search_plan` refuses.
    """
    if (latency_ms is None) == (speedup is None):
        raise ValueError("give one of latency_ms and speedup")
    recipe, console = read_recipe(path, overrides), console or Console()
    things = _things(recipe, judging, os.fspath(path), data)
    model = make_network(recipe, things.start, recipe.seeds[0]).eval()
    names, kept = tuple(patterns) or PATTERNS, tuple(densities) or DENSITIES
    example = things.normalised(things.train.images[:1]).contiguous()
    costs = costs_of(model, example, patterns=names, densities=kept, threads=threads, table=table)
    budget = costs.dense_ms / speedup if speedup is not None else float(latency_ms or 0)
    task = _Task(recipe, model, costs, Space.of(model, costs, names, kept), budget, judging, things)
    told = f"{recipe.name}: {task.space}; {budget:.4g} ms of {costs.dense_ms:.4g} are allowed"
    console.print(told, soft_wrap=True)
    results: dict[str, SearchResult] = {}
    for sampler, seed in ((sampler, seed) for seed in seeds for sampler in samplers):
        title = f"{recipe.name}-{sampler}-{seed}"
        with _shown(console, title, trials) as on_trial:
            results[title] = search_plan(
                model,
                costs,
                task.evaluate,
                latency_ms=budget,
                space=task.space,
                sampler=sampler,
                trials=trials,
                storage=storage,
                name=title,
                workers=workers,
                threads=threads,
                seed=seed,
                first=[Plan.load(file) for file in first],
                chance=1 / (int(things.train.labels.max()) + 1),
                facts=task.facts,
                on_trial=on_trial,
            )
        _write(results[title], Path(folder), console)
    found = task.pareto(results, threads)
    write_pareto(found, Path(folder) / f"{recipe.name}.pareto.json")
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """What all studies of a recipe share."""

    recipe: Recipe
    model: nn.Module
    costs: Costs
    space: Space
    budget_ms: float
    judging: Judging
    things: Ingredients
    evaluate: FastAccuracy = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "evaluate", _evaluate(self.things, self.judging))

    @property
    def facts(self) -> dict[str, Any]:
        """What two searches must have alike to be one."""
        recipe, judging = self.recipe, self.judging
        return {
            "network": recipe.network.name,
            "checkpoint": recipe.network.checkpoint,
            "data": recipe.data.name,
            "held_out": recipe.data.held_out,
            "pictures": judging.pictures,
            "statistics": judging.statistics,
            "batch": judging.batch,
            "tuning": [judging.tuning_steps, judging.tuning_lr] if judging.tuning_steps else None,
        }

    def pareto(self, results: Mapping[str, SearchResult], threads: int) -> Pareto:
        """The network without holes and the fronts of all searches; chosen is the most accurate within the budget."""
        with torch_threads(threads):
            dense = Candidate("dense", Plan(), self.evaluate(self.model, Plan()), self.costs.dense_ms)
        candidates = (dense, *(candidate for result in results.values() for candidate in result.candidates()))
        within = [place for place, c in enumerate(candidates) if Objective(self.budget_ms).feasible(c.ms)]
        chosen = max(within, key=lambda place: (candidates[place].accuracy, -candidates[place].ms), default=None)
        return Pareto(
            network=self.recipe.network.name,
            accuracy_of=str(self.judging),
            ms_of=f"predicted, one picture, {threads} thread{'s' * (threads != 1)}",
            candidates=candidates,
            chosen=chosen,
            latency_ms=self.budget_ms,
            layers=() if chosen is None else layers_of(candidates[chosen].plan, self.costs),
            curves={title: result.rewards for title, result in results.items()},
        )


def _things(recipe: Recipe, judging: Judging, where: str, data: str | os.PathLike[str] | None) -> Ingredients:
    """Read what the recipe names; the pictures that judge must be held out of training, and the weights be trained."""
    problems = []
    if recipe.data.held_out < judging.pictures:
        told = f"a search judges by {judging.pictures} held-out training pictures; set it to that or more"
        problems.append(f"data.held_out: {told}, got {recipe.data.held_out}")
    if recipe.network.checkpoint is None:
        problems.append("network.checkpoint: a search prunes trained weights; name a file of them")
    if problems:
        raise RecipeError(where, problems)
    return gather(recipe, where, data)


def _evaluate(things: Ingredients, judging: Judging) -> FastAccuracy:
    order = torch.randperm(len(things.train), generator=stream(0, "search", 0))
    statistics = _batches(things, order[: judging.statistics * judging.batch], judging.batch)
    tuning = None
    if judging.tuning_steps:
        # Pictures that training sees anyway; each once, while there are enough.
        tuning = ShortTuning(
            _batches(things, order[: judging.tuning_steps * judging.batch], judging.batch),
            judging.tuning_steps,
            judging.tuning_lr,
        )
    held_out = things.test.take(torch.arange(judging.pictures))
    images, labels = things.normalised(held_out.images), held_out.labels
    batches = [*zip(images.split(judging.batch), labels.split(judging.batch), strict=True)]
    return FastAccuracy(batches, [inputs for inputs, _ in statistics], tuning)


def _batches(things: Ingredients, index: Tensor, batch: int) -> list[tuple[Tensor, Tensor]]:
    pictures = [things.train.take(part) for part in index.split(batch)]
    return [(things.normalised(some.images), some.labels) for some in pictures]


def _write(result: SearchResult, folder: Path, console: Console) -> None:
    write_search(result, folder / f"{result.name}.json")
    console.print(str(result), highlight=False, markup=False, soft_wrap=True)
    if result.best is not None:
        result.plan.save(folder / f"{result.name}.yaml")
        console.print(f"{folder / result.name}.yaml written", style="dim", markup=False, soft_wrap=True)


@contextmanager
def _shown(console: Console, title: str, total: int) -> Iterator[Callable[[Tried], None]]:
    """Give a function that shows each trial, with the best so far: a bar, or at most a line in half a minute."""
    best: list[Tried] = []

    def text(trial: Tried) -> str:
        if not best or trial.reward > best[0].reward:
            best[:] = [trial]
        return f"best reward {best[0].reward:.4f} ({best[0].accuracy:.2%}, {best[0].ms:.4g} ms)"

    if not console.is_terminal:
        last = [0.0]

        def line(trial: Tried) -> None:
            told = text(trial)
            if time.monotonic() - last[0] >= LINE_EVERY_S or trial.number + 1 == total:
                last[0] = time.monotonic()
                console.print(f"{title}: trial {trial.number + 1} of {total}, {told}", soft_wrap=True)

        yield line
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    times = TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, *times, TextColumn("{task.fields[text]}"), console=console) as bar:
        task = bar.add_task(title, total=total, text="")
        yield lambda trial: bar.update(task, completed=trial.number + 1, text=text(trial))
