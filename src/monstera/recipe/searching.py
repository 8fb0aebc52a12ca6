"""Search a plan for the network, the weights and the held-out pictures of a recipe."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from monstera.compiler.targets import native
from monstera.measure.peers import torch_threads
from monstera.recipe.display import shown_trials
from monstera.recipe.errors import RecipeError
from monstera.recipe.ingredients import Ingredients, gather, make_network
from monstera.recipe.judging import Judging, judge
from monstera.recipe.reading import read_recipe
from monstera.recipe.schema import Recipe
from monstera.recipe.search_options import Searching
from monstera.search.cost import Costs
from monstera.search.costs import NetworkCosts, cached_costs, costs_from_json, costs_of
from monstera.search.evaluation import FastAccuracy
from monstera.search.goal import Goal
from monstera.search.mapping import search_plan
from monstera.search.objective import Objective
from monstera.search.pareto import Candidate, Pareto, layers_of, write_pareto
from monstera.search.searched import SearchResult, Tried, write_search
from monstera.search.space import Space
from monstera.search.study_at import StudyAt
from monstera.sparsity import Plan
from monstera.sparsity.files import write_atomically


def run_search(
    path: str | os.PathLike[str],
    goal: Goal,
    searching: Searching,
    *,
    judging: Judging = Judging(),  # noqa: B008 (frozen)
    overrides: Mapping[str, Any] | None = None,
    data: str | os.PathLike[str] | None = None,
    console: Console | None = None,
) -> Pareto:
    """Search for each sampler and seed, and write results, plans and what can be had into a folder.

    The pictures that the recipe holds out of training judge the plans; test pictures are not looked at. What comes out
    is for choosing: pruned by the recipe with `plan: {file: ...}`, the network is tested on pictures that the search
    never saw.

    Args:
        goal: of a call on one picture; a speedup is against our own dense engine, as predicted.
        searching: the studies.
        overrides, data: as for `run`.

    Returns:
        What was written to `<recipe's name>.pareto.json`.

    Raises:
        RecipeError: the recipe cannot be used; every field that is wrong is named.
        ValueError: the goal is a density, or what `search_plan` refuses.
    """
    if not goal.timed:
        raise ValueError(f"a search has a budget of time, speedup or latency_ms; got {goal}, which monstera.plan takes")
    first = [Plan.load(file) for file in searching.first]
    recipe, console = read_recipe(path, overrides), console or Console()
    task = _task(recipe, goal, searching, judging, _things(recipe, judging, os.fspath(path), data))
    told = f"{recipe.name}: {task.space}; {task.objective.budget:.4g} ms of {task.costs.dense_ms:.4g} are allowed"
    console.print(told, soft_wrap=True)
    results: dict[str, SearchResult] = {}
    for sampler, seed in searching.pairs:
        title = f"{recipe.name}-{sampler}-{seed}"
        with shown_trials(console, title, searching.trials) as on_trial:
            results[title] = task.search(title, sampler, seed, first, on_trial)
        _write(results[title], searching.folder, console)
    found = task.pareto(results)
    write_pareto(found, searching.folder / f"{recipe.name}.pareto.json")
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """What all studies of a recipe share."""

    recipe: Recipe
    model: nn.Module
    costs: Costs
    space: Space
    objective: Objective
    searching: Searching
    judging: Judging
    things: Ingredients
    evaluate: FastAccuracy

    def search(
        self, title: str, sampler: str, seed: int, first: Sequence[Plan], on_trial: Callable[[Tried], None]
    ) -> SearchResult:
        """Run one study, or go on with it."""
        return search_plan(
            self.model,
            self.costs,
            self.evaluate,
            self.objective,
            space=self.space,
            sampler=sampler,
            trials=self.searching.trials,
            first=first,
            seed=seed,
            study=StudyAt(self.searching.storage, title, self.facts),
            workers=self.searching.workers,
            threads=self.searching.threads,
            on_trial=on_trial,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What two searches must have alike to be one."""
        recipe, judging = self.recipe, self.judging
        return {
            "network": recipe.network.name,
            "checkpoint": recipe.network.checkpoint,
            "data": recipe.data.name,
            "mean": self.things.mean.flatten().tolist(),
            "std": self.things.std.flatten().tolist(),
            "held_out": recipe.data.held_out,
            "pictures": judging.pictures,
            "statistics": judging.statistics,
            "batch": judging.batch,
            "tuning": [judging.tuning_steps, judging.tuning_lr] if judging.tuning_steps else None,
        }

    def pareto(self, results: Mapping[str, SearchResult]) -> Pareto:
        """The network without holes and the fronts of all searches; chosen is the most accurate within the budget."""
        threads = self.searching.threads
        with torch_threads(threads):
            dense = Candidate("dense", Plan(), self.evaluate(self.model, Plan()), self.costs.dense_ms)
        candidates = (dense, *(candidate for result in results.values() for candidate in result.candidates()))
        within = [place for place, c in enumerate(candidates) if self.objective.feasible(c.ms)]
        chosen = max(within, key=lambda place: (candidates[place].accuracy, -candidates[place].ms), default=None)
        return Pareto(
            network=self.recipe.network.name,
            accuracy_of=str(self.judging),
            ms_of=f"predicted, one picture, {threads} thread{'s' * (threads != 1)}",
            candidates=candidates,
            chosen=chosen,
            latency_ms=self.objective.budget,
            layers=() if chosen is None else layers_of(candidates[chosen].plan, self.costs),
            curves={title: result.rewards for title, result in results.items()},
        )


def _task(recipe: Recipe, goal: Goal, searching: Searching, judging: Judging, things: Ingredients) -> _Task:
    model = make_network(recipe, things.start, recipe.seeds[0]).eval()
    costs = _costs(recipe, model, things.normalised(things.train.images[:1]).contiguous(), searching)
    space = Space.of(model, costs, searching.patterns, searching.densities)
    objective = Objective(goal.budget(costs.dense_ms), chance=1 / (int(things.train.labels.max()) + 1))
    return _Task(recipe, model, costs, space, objective, searching, judging, things, judge(things, judging))


def _costs(recipe: Recipe, model: nn.Module, example: Tensor, searching: Searching) -> NetworkCosts:
    """What plans take: by the table if there is one, else as the folder has it, else measured and kept there.

    What this machine knows grows with every network, and predictions change with it; a search that goes on must not.
    """
    patterns, threads = searching.patterns, searching.threads
    if searching.table is not None:
        return costs_of(model, example, table=searching.table, patterns=patterns, threads=threads)
    named = (recipe.network.name, recipe.network.options, list(example.shape), [*map(str, patterns)])
    digest = hashlib.sha256(repr((named, threads, cached_costs(native()).machine.digest)).encode()).hexdigest()[:8]
    path = searching.folder / f"{recipe.name}-{digest}.costs.json"
    if path.is_file():
        return costs_from_json(path.read_bytes())
    costs = costs_of(model, example, patterns=patterns, threads=threads)
    write_atomically(path, costs.to_json().encode())
    return costs


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


def _write(result: SearchResult, folder: Path, console: Console) -> None:
    write_search(result, folder / f"{result.name}.json")
    console.print(str(result), highlight=False, markup=False, soft_wrap=True)
    if result.best is not None:
        result.plan.save(folder / f"{result.name}.yaml")
        console.print(f"{folder / result.name}.yaml written", style="dim", markup=False, soft_wrap=True)
