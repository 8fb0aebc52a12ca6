"""All three phases of NPAS in one call, and everything that is needed to reproduce them in one folder."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch
from rich.console import Console
from torch import nn

from monstera.measure import MONSTERA, Entry, compare, to_json, write_json
from monstera.measure.peers import torch_threads
from monstera.search.npas.base import Base, base_network, uniform_schemes
from monstera.search.npas.borrowing import borrow
from monstera.search.npas.candidate import Inherited, build
from monstera.search.npas.checks import check, check_reach
from monstera.search.npas.evaluation import FastEvaluation
from monstera.search.npas.inheritance import inherit
from monstera.search.npas.latency import measured_ms, surviving_macs
from monstera.search.npas.methods import Contender, Finals
from monstera.search.npas.records import FORMAT, circumstances, claim, read_record
from monstera.search.npas.result import Evaluated, SchemeSearchResult
from monstera.search.npas.scheme import Scheme
from monstera.search.npas.search import search
from monstera.search.npas.settings import NpasSettings, Rival, Split
from monstera.search.npas.unfriendly import replace_unfriendly, with_stand_ins
from monstera.search.objective import Objective
from monstera.search.pareto import write_pareto
from monstera.sparsity import Plan
from monstera.sparsity.files import write_tensors
from monstera.training import accuracy, train

# The reward that twice the budget costs. Less than plans for a trained network take (`monstera.search.objective`), as
# candidates are trained before they are judged, so that what is over budget gains little accuracy by it.
PENALTY = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What NPAS found: the trained network of the first seed, its plan and scheme, and what they come from.

    Attributes:
        searched: all schemes of phase 2; `build(base, scheme, inherited)` makes the network of any of them.
        result: what the result file says.
    """

    model: nn.Module
    plan: Plan
    scheme: Scheme
    base: Base
    inherited: Inherited
    searched: SchemeSearchResult
    result: Mapping[str, Any]


def npas(
    model: nn.Module,
    split: Split,
    settings: NpasSettings,
    folder: str | os.PathLike[str],
    *,
    workers: int = 1,
    measure_again: bool = False,
    rivals: Mapping[str, Rival] = MappingProxyType({}),
    console: Console | None = None,
) -> Found:
    """Replace unfriendly functions, search network and holes together, and prune what was found by the best method.

    Whatever is in the folder is not done again, so that a run that was killed goes on: `run.json` (what was asked,
    versions, machine), `base.*` (phase 1), `inherited.safetensors`, `budget.json`, `journal.jsonl`, `front.json`,
    `scheme.json`, for each finalist `networks/<name>` with plan, methods tried and weights, and `result.json`.

    Args:
        model: trained; not changed.
        settings: how; with the seeds it decides everything but latencies.
        workers: processes that train candidates at once in phase 2; they measure one at a time, while none trains.
        measure_again: measure the finalists' latencies anew, for a machine that was not quiet before.
        rivals: other networks that are trained and measured beside what is found, such as narrower ones, by name.
        console: where progress is shown.

    Raises:
        ValueError: the folder is of another network, other data or other settings, or see `check` and `borrow`; see
            also the phases.
        GoalError: the budget is out of reach.

    Source: Z. Li et al., "NPAS" (CVPR 2021), arXiv 2012.00596; docs/search/npas.md says where we differ.
    """
    place = Path(folder)
    check(model, split, settings, rivals)
    if not (place / "budget.json").is_file():
        check_reach(model, split.train.images[:1], settings)
    claim(place, model, split, settings, rivals)
    if settings.base_from is not None:
        borrow(Path(settings.base_from), place, settings)
    say = (console or Console(quiet=True)).print
    with torch_threads(settings.threads):
        base, report = _friendly(model, split, settings, place)
        say(f"base network: {report['accuracy']:.2%} held out (before phase 1 {report['accuracy_before']:.2%})")
        inherited = inherit(base, split.train.images[: settings.inherited_from], place / "inherited.safetensors")
        searched = _search(base, inherited, split, settings, place, workers, console)
        say(f"found: {_told(searched)}")
        write_json(_shown(chosen := searched.chosen), place / "scheme.json")
        write_pareto(searched.pareto(type(model).__name__, base.space, settings.threads), place / "front.json")
        friendly = {name: replace(r, model=_like(r.model, report, split)) for name, r in rivals.items()}
        contenders = _contenders(base, build(base, chosen.scheme, inherited), settings, friendly)
        records, networks = _trained(_finals(base, split, settings), contenders, place / "networks")
        for name, record in records.items():
            say(f"{name}: {record['accuracy_mean']:.2%} by {record['method']}")
        if measure_again:
            (place / "latency.json").unlink(missing_ok=True)
        raced = {"original": copy.deepcopy(model).eval(), **networks}
        latency = read_record(place / "latency.json", lambda: _latency(raced, split, settings.threads))
    result = _result(report, chosen, searched, records, latency)
    write_json(result, place / "result.json")
    return Found(networks["npas"], contenders[0].plan, chosen.scheme, base, inherited, searched, result)


# ---- phase 1 --------------------------------------------------------------------------------------------------------


def _friendly(model: nn.Module, split: Split, settings: NpasSettings, place: Path) -> tuple[Base, dict[str, Any]]:
    example, path = split.train.images[:1], place / "base.safetensors"

    def replaced() -> dict[str, Any]:
        changed, rows = replace_unfriendly(model, example, least_saving=settings.least_saving, threads=settings.threads)
        tuned = train(changed, Plan(), split.train, settings.tune) if any(row.made for row in rows) else changed.eval()
        write_tensors(tuned.state_dict(), path)
        return {
            "replacements": [asdict(row) for row in rows],
            "accuracy_before": accuracy(model, split.held_out.batches()),
            "accuracy": accuracy(tuned, split.held_out.batches()),
        }

    report = read_record(place / "base.json", replaced)
    base = _like(model, report, split)
    base.load_state_dict(safetensors.torch.load_file(path))
    return base_network(base, example, **settings.space), report


def _like(model: nn.Module, report: Mapping[str, Any], split: Split) -> nn.Module:
    """The network with what phase 1 has replaced, its weights as they are, in evaluation mode."""
    made = [row["kind"] for row in report["replacements"] if row["made"]]
    return with_stand_ins(model, split.train.images[:1], made)[0].eval()


# ---- phase 2 --------------------------------------------------------------------------------------------------------


def _search(
    base: Base,
    inherited: Inherited,
    split: Split,
    settings: NpasSettings,
    place: Path,
    workers: int,
    console: Console | None,
) -> SchemeSearchResult:
    example = split.train.images[:1]

    def priced() -> dict[str, Any]:
        ms = measured_ms(base.model, example, threads=settings.threads)
        dense = {"ms": ms, "macs": surviving_macs(base.model, example)}
        return {"dense": dense, "budget": settings.budget * dense[settings.search.cost]}

    # Kept, as another measurement would make it another search.
    budget = read_record(place / "budget.json", priced)["budget"]
    fast = settings.fast.accuracy(split.train.balanced(settings.subset), split.held_out)
    evaluate = FastEvaluation(base, inherited, fast, example, settings.threads, place / "turns.lock")
    objective = Objective(budget, PENALTY, 1 / len(split.train.labels.unique()))
    journal = place / "journal.jsonl"
    return search(
        base.space,
        evaluate,
        objective,
        settings.search,
        journal=journal,
        first=uniform_schemes(base.space),
        workers=workers,
        console=console,
    )


def _told(searched: SchemeSearchResult) -> str:
    """What was chosen, in words."""
    unit, chosen = searched.cost, searched.chosen
    told = f"{chosen.outcome.accuracy:.2%} held out, {chosen.outcome.cost(unit):.4g} {unit}"
    if searched.best is not None:
        return told
    return f"{told}; no scheme keeps the budget of {searched.objective.budget:.4g}, this has the best reward"


# ---- phase 3 --------------------------------------------------------------------------------------------------------


def _contenders(
    base: Base, found: tuple[nn.Module, Plan], settings: NpasSettings, rivals: Mapping[str, Rival]
) -> list[Contender]:
    others = {**{name: Rival(base.model, holes) for name, holes in settings.baselines.items()}, **rivals}
    plans = {name: Plan() if r.holes is None else Plan.uniform(r.model, *r.holes) for name, r in others.items()}
    return [Contender("npas", *found), *(Contender(name, r.model, plans[name]) for name, r in others.items())]


def _finals(base: Base, split: Split, settings: NpasSettings) -> Finals:
    return Finals(
        settings.methods,
        split.train.balanced(settings.subset),
        settings.short,
        split.held_out,
        split.train,
        settings.full,
        split.test,
        base.model,
        settings.seeds,
    )


def _trained(
    finals: Finals, contenders: Sequence[Contender], folder: Path
) -> tuple[dict[str, Any], dict[str, nn.Module]]:
    """What became of all contenders by name, and their networks of the first seed."""
    records = {one.name: finals.run(one, folder / one.name) for one in contenders}
    return records, {one.name: finals.trained(one, finals.seeds[0], folder / one.name) for one in contenders}


def _latency(networks: Mapping[str, nn.Module], split: Split, threads: int) -> dict[str, Any]:
    entries = [Entry(MONSTERA, network, name) for name, network in networks.items()]
    return to_json(compare("npas", entries, split.train.images[:1], threads=threads))


# ---- records --------------------------------------------------------------------------------------------------------


def _shown(one: Evaluated) -> dict[str, Any]:
    return {"scheme": one.scheme.to_json(), **asdict(one.outcome), "reward": one.reward, "round": one.round}


def _result(
    report: Mapping[str, Any],
    chosen: Evaluated,
    searched: SchemeSearchResult,
    records: Mapping[str, Any],
    latency: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "phase1": report,
        "phase2": {
            "objective": {**asdict(searched.objective), "cost": searched.cost},
            "chosen": _shown(chosen),
            "within_budget": searched.objective.feasible(chosen.outcome.cost(searched.cost)),
            "evaluations": len(searched.evaluated),
            "curve": list(searched.rewards),
            "drifts": [asdict(one) for one in searched.drifts],
        },
        "phase3": dict(records),
        "latency": dict(latency),
        **circumstances(),
    }
