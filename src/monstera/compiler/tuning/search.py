"""Which choices are timed: the most promising few, or generations of them (GRIM's genetic search, on our genes).

Source: GRIM (TPAMI 2021), auto-tuning by a genetic algorithm over tile sizes, unrolling and loop order. How we differ:
the network itself is the test bench, so all layers evolve at once and one build times a whole generation; loop order is
the size of a chunk (a chunk of one tile puts the pixels outermost), and how rows are cut into blocks is a gene, too.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

from rich.console import Console
from rich.progress import Progress

from monstera.compiler.frontends import Imported
from monstera.compiler.lowering import lower_with
from monstera.compiler.lowering.choice import Case, Choice, Cut
from monstera.compiler.targets import Target, platform_of
from monstera.compiler.tuning.table import Table, cached_table, keep
from monstera.compiler.tuning.trial import time_choices
from monstera.runtime.machine import shortfall

Effort: TypeAlias = Literal["none", "fast", "full"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)

Times: TypeAlias = Mapping[str, Mapping[Choice, float]]

GENERATIONS, POPULATION, PARENTS = 5, 8, 3
_UNROLLS = (1, 2, 4)
# What the model of the cost chose is left only for something that is clearly faster: timings have noise.
_WORTHWHILE = 0.98


def tune_layers(
    imported: Imported,
    target: Target,
    threads: int,
    effort: Effort,
    known: Table,
    cuts: Mapping[str, Cut] | None = None,
) -> Table:
    """The best choice found for every layer of an optimised graph; what is known is not timed again.

    `cuts` say how programs of other shapes cut rows, as for `lower_with`.

    Raises:
        ValueError: a target that this machine cannot run and so cannot time.
        BuildError: the C compiler is missing or failed.
    """
    if effort == "none":
        return known
    _check_runs(target)
    cases = lower_with(imported.graph, target, threads, {}, cuts=cuts).cases
    table = cached_table(set(cases), target, effort).joined(known)
    missing = {key: case for key, case in cases.items() if key not in table.choices}
    if not missing:
        return table
    found = _search(imported, target, threads, effort, missing, cuts)
    keep(found, target, effort)
    return table.joined(found)


def _check_runs(target: Target) -> None:
    if lacks := shortfall(platform_of(target), target.features):
        raise ValueError(
            f"tuning times kernels, but target {target.name!r} cannot run here: {lacks}; "
            "tune on a machine that runs it and pass its table (`tuning=`), or leave tune at 'none'"
        )


def _search(
    imported: Imported,
    target: Target,
    threads: int,
    effort: Effort,
    cases: Mapping[str, Case],
    cuts: Mapping[str, Cut] | None,
) -> Table:
    rng = random.Random(0)
    generations = 1 if effort == "fast" else GENERATIONS
    times: dict[str, dict[Choice, float]] = {key: {} for key in cases}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"tuning {len(cases)} layers", total=generations)
        for _ in range(generations):
            trial = {key: [case.default, *_next_choices(case, times[key], target, rng)] for key, case in cases.items()}
            for key, measured in time_choices(imported, target, threads, trial, cuts).items():
                # Timings of different builds are compared by what the same default took in each.
                if key in cases:
                    times[key] |= _relative(measured, cases[key].default, times[key])
            progress.advance(task)
    best = {key: _fastest(cases[key].default, measured) for key, measured in times.items()}
    return Table(best, {key: times[key][choice] for key, choice in best.items()})


def _relative(measured: Mapping[Choice, float], default: Choice, before: Mapping[Choice, float]) -> dict[Choice, float]:
    scale = before[default] / measured[default] if default in before and measured[default] else 1.0
    return {choice: ms * scale for choice, ms in measured.items() if choice not in before}


def _fastest(default: Choice, measured: Mapping[Choice, float]) -> Choice:
    best = min(measured, key=lambda choice: measured[choice])
    return best if measured[best] < _WORTHWHILE * measured[default] else default


def _next_choices(case: Case, times: Mapping[Choice, float], target: Target, rng: random.Random) -> list[Choice]:
    """The promising ones first, then children of the fastest so far."""
    if not times:
        return [choice for choice in promising(case, target) if choice != case.default]
    parents = sorted(times, key=lambda choice: times[choice])[:PARENTS]
    children: set[Choice] = set()
    for _ in range(20 * POPULATION):
        child = _mutated(_crossed(rng.choice(parents), rng.choice(parents), rng), case, target, rng)
        if child not in times:
            children.add(child)
        if len(children) == POPULATION:
            break
    return sorted(children, key=repr)


def promising(case: Case, target: Target) -> Iterator[Choice]:
    """What is worth timing for a layer, by the model's ranking: block sizes, then tiles, then one tile a chunk."""
    for candidate in case.candidates[:3]:
        yield Choice(candidate.order, candidate.sizes)
    if not case.vectors:
        return
    best = case.default
    widest = max(target.tiles[size] for size in best.sizes)
    for tile in range(widest - 1, max(1, widest // 2), -1):
        yield Choice(best.order, best.sizes, tile)
    for tile in range(widest, max(1, widest // 2), -1):
        yield Choice(best.order, best.sizes, tile, tile)


def _crossed(a: Choice, b: Choice, rng: random.Random) -> Choice:
    rows = rng.choice((a, b))
    walk = rng.choice((a, b))
    return Choice(rows.order, rows.sizes, walk.tile, walk.chunk, rng.choice((a, b)).unroll, walk.groups)


def _mutated(choice: Choice, case: Case, target: Target, rng: random.Random) -> Choice:
    """One gene anew: how rows are cut, the tile, the chunk in tiles, the unrolling, or the groups of columns."""
    gene = rng.choice(("rows", "tile", "chunk", "unroll", "groups") if case.vectors else ("rows",))
    if gene == "rows":
        candidate = rng.choice(case.candidates[:6])
        return replace(choice, order=candidate.order, sizes=candidate.sizes)
    widest = max(target.tiles[size] for size in choice.sizes)
    match gene:
        case "tile":
            return replace(choice, tile=rng.randint(1, widest), chunk=0)
        case "chunk":
            return replace(choice, chunk=rng.choice((0, 1, 2, 4, 8)) * (choice.tile or widest))
        case "unroll":
            return replace(choice, unroll=rng.choice(_UNROLLS))
    return replace(choice, groups=rng.choice((1, 2, 4, 8)))
