"""Search a plan for the network, the weights and the held-out pictures of a recipe."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
from monstera.search.cost import Costs
from monstera.search.costs import NetworkCosts, cached_costs, costs_from_json, costs_of
from monstera.search.evaluation import FastAccuracy
from monstera.search.mapping import need_optuna, search_plan
from monstera.search.objective import Objective
from monstera.search.pareto import Candidate, Pareto, layers_of, write_pareto
from monstera.search.rules import DENSITIES
from monstera.search.searched import SearchResult, write_search
from monstera.search.space import PATTERNS, Space
from monstera.search.study_at import StudyAt
from monstera.sparsity import Plan
from monstera.sparsity.errors import suggestion
from monstera.sparsity.files import write_atomically
from monstera.sparsity.pattern_names import PatternLike


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
    judging: Judging = Judging(),  # noqa: B008 (frozen)
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
        table: a cost table of another machine; by default costs are measured here, and kept in `folder` for when the
            search goes on.
        overrides, data: as for `run`.

    Returns:
        What was written to `<recipe's name>.pareto.json`.

    Raises:
        RecipeError: the recipe cannot be used; every field that is wrong is named.
        ValueError: not one of `latency_ms` and `speedup` is given, or what `search_plan` refuses.
    """
    if (latency_ms is None) == (speedup is None):
        raise ValueError("give one of latency_ms and speedup")
    _refuse(samplers, trials, workers, threads)
    plans = [Plan.load(file) for file in first]
    recipe, console = read_recipe(path, overrides), console or Console()
    things = _things(recipe, judging, os.fspath(path), data)
    model = make_network(recipe, things.start, recipe.seeds[0]).eval()
    names, kept = tuple(patterns) or PATTERNS, tuple(densities) or DENSITIES
    example = things.normalised(things.train.images[:1]).contiguous()
    costs = _costs(recipe, model, example, names, threads, table, Path(folder))
    budget = costs.dense_ms / speedup if speedup is not None else float(latency_ms or 0)
    task = _Task(recipe, model, costs, Space.of(model, costs, names, kept), budget, judging, things)
    told = f"{recipe.name}: {task.space}; {budget:.4g} ms of {costs.dense_ms:.4g} are allowed"
    console.print(told, soft_wrap=True)
    results: dict[str, SearchResult] = {}
    for sampler, seed in ((sampler, seed) for seed in seeds for sampler in samplers):
        title = f"{recipe.name}-{sampler}-{seed}"
        with shown_trials(console, title, trials) as on_trial:
            results[title] = search_plan(
                model,
                costs,
                task.evaluate,
                Objective(budget, chance=1 / (int(things.train.labels.max()) + 1)),
                space=task.space,
                sampler=sampler,
                trials=trials,
                first=plans,
                seed=seed,
                study=StudyAt(storage, title, task.facts),
                workers=workers,
                threads=threads,
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
        object.__setattr__(self, "evaluate", judge(self.things, self.judging))

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


def _refuse(samplers: Sequence[str], trials: int, workers: int | Literal["ray"], threads: int) -> None:
    """Refuse at once what `search_plan` would refuse after costs were measured, or after the studies before."""
    need_optuna()
    from monstera.search.samplers import SAMPLERS

    if wrong := [name for name in samplers if name not in SAMPLERS]:
        raise ValueError(f"no sampler is called {wrong[0]!r}; {suggestion(wrong[0], SAMPLERS)}")
    if min(trials, threads, 1 if workers == "ray" else workers) < 1:
        raise ValueError(f"expected 1 or more, got trials {trials}, workers {workers}, threads {threads}")


def _costs(
    recipe: Recipe,
    model: nn.Module,
    example: Tensor,
    patterns: Sequence[PatternLike],
    threads: int,
    table: str | os.PathLike[str] | None,
    folder: Path,
) -> NetworkCosts:
    """What plans take: by `table` if there is one, else as the folder has it, else measured and kept there.

    What this machine knows grows with every network, and predictions change with it; a search that goes on must not.
    """
    asked = {"patterns": patterns, "threads": threads}
    if table is not None:
        return costs_of(model, example, table=table, **asked)
    named = (recipe.network.name, recipe.network.options, list(example.shape), [*map(str, patterns)])
    digest = hashlib.sha256(repr((named, threads, cached_costs(native()).machine.digest)).encode()).hexdigest()[:8]
    path = folder / f"{recipe.name}-{digest}.costs.json"
    if path.is_file():
        return costs_from_json(path.read_bytes())
    costs = costs_of(model, example, **asked)
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
