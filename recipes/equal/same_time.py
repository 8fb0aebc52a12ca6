"""Plans that take equally long: `python recipes/equal/same_time.py`, after the two commands in study.yaml.

For every pattern, the density at which a uniform plan takes as long as the plan by rules, by regula falsi on measured
times; and of what a search found, the most accurate plan that takes no longer. Plans are written where they are not
there yet, and timed against each other in one run: one picture, one thread, an idle machine.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from monstera.measure import this_machine, write_json
from monstera.measure.cases import Case, race_cases
from monstera.measure.study import Point
from monstera.recipe.ingredients import gather, make_network
from monstera.recipe.reading import read_recipe
from monstera.search.pareto import read_pareto
from monstera.sparsity import Plan, projected_copy

FOLDER = Path(__file__).parent
RECIPE = FOLDER.parent / "search" / "cifar10_resnet20.yaml"
PATTERNS = ("4x1", "8x1", "16x1")
# How many plans are tried, and how near a time has to be: as measured, and before that as predicted.
TRIES = 8
NEAR = 0.01
PROMISING = 0.03
RULES, FOUND = FOLDER / "rules.yaml", FOLDER / "found"


def main() -> None:
    """Find the plans that take as long as the one by rules, and time them all."""
    things = gather(recipe := read_recipe(RECIPE), str(RECIPE))
    model = make_network(recipe, things.start, seed=0).eval()
    example = things.normalised(things.train.images[:1])
    wanted = Plan.load(RULES)
    makers = {f"uniform_{pattern}": partial(uniform, model, example, pattern, wanted) for pattern in PATTERNS}
    makers["searched"] = partial(within, model, example, FOUND / "equal.pareto.json", wanted)
    plans = {"dense": Plan(), "rules": wanted}
    for name, make in makers.items():
        if not (file := FOLDER / f"{name}.yaml").is_file():
            make().save(file)
        plans[name] = Plan.load(file)
    points = raced(model, example, plans, rounds=15)
    facts = {"machine": asdict(this_machine()), "date": f"{datetime.now(timezone.utc):%Y-%m-%d}"}
    write_json({**facts, "plans": {point.line: row(point) for point in points}}, FOUND / "latencies.json")
    for point in points:
        Console().print(point.line, row(point))


def uniform(model: nn.Module, example: Tensor, pattern: str, wanted: Plan) -> Plan:
    """The uniform plan of a pattern that takes as long as `wanted`: the nearest of `TRIES`."""
    low, high, found = 0.0, 1.0, {}
    for _ in range(TRIES):
        # Nearly a line, so that the next density is where one through both ends would meet the wanted time.
        density = 0.3 if not found else between(low, high, found)
        off = relative(model, example, Plan.uniform(model, pattern, density), wanted)
        found[density] = off
        Console().print(f"{pattern} at {density:.4f}: {off:+.1%}")
        if abs(off) <= NEAR:
            break
        low, high = (low, density) if off > 0 else (density, high)
    return Plan.uniform(model, pattern, min(found, key=lambda density: abs(found[density])))


def between(low: float, high: float, found: dict[float, float]) -> float:
    """Where the line through what was measured at both ends is zero; the middle where an end was not measured."""
    if low not in found or high not in found:
        return round((low + high) / 2, 4)
    return round(low + (high - low) * found[low] / (found[low] - found[high]), 4)


def within(model: nn.Module, example: Tensor, searched: Path, wanted: Plan) -> Plan:
    """The most accurate plan of a search that takes at most as long as `wanted`, as measured."""
    found = read_pareto(searched)
    most = (1 + PROMISING) * (found.latency_ms or 0)
    promising = sorted((c for c in found.front if c.ms <= most), key=lambda candidate: -candidate.accuracy)
    for candidate in promising[:TRIES]:
        off = relative(model, example, candidate.plan, wanted)
        Console().print(f"searched, {candidate.accuracy:.2%}: {off:+.1%}")
        if off <= NEAR:
            return candidate.plan
    raise ValueError(f"of {len(promising)} plans none takes as little as the plan by rules; search anew")


def relative(model: nn.Module, example: Tensor, plan: Plan, wanted: Plan) -> float:
    """How much longer a plan takes than `wanted`, both timed in one run."""
    one, other = raced(model, example, {"plan": plan, "wanted": wanted}, rounds=9)
    assert one.timing is not None
    assert other.timing is not None
    return one.timing.median_ms / other.timing.median_ms - 1


def raced(model: nn.Module, example: Tensor, plans: dict[str, Plan], rounds: int) -> tuple[Point, ...]:
    cases = [Case("plans", name, "", projected_copy(model, plan), example) for name, plan in plans.items()]
    return race_cases(cases, rounds=rounds)


def row(point: Point) -> dict[str, Any]:
    assert point.timing is not None
    return {
        "ms": point.timing.median_ms,
        "spread": point.timing.spread,
        "disturbed": point.timing.disturbed,
        "surviving_macs": point.macs.surviving,
        "error": point.error,
    }


if __name__ == "__main__":
    main()
