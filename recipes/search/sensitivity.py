"""Which estimate of what holes cost chooses best: `python recipes/search/sensitivity.py` (decision 0029).

The pretrained ResNet-20 of the search's recipe, in blocks of 4x1. Each estimate is compared with the measured cross
entropy after projecting one layer at one density, statistics of batch norm as they were: the correlation of ranks. Then
it shares out a density over all layers; the network is projected at once, batch norm estimated anew, and its cross
entropy measured. Pictures that judge are those that the recipe holds out of training; the checkpoint has seen them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from monstera.measure import this_machine, write_json
from monstera.pruning import prune, reestimate_batch_norm
from monstera.recipe.ingredients import gather, make_network
from monstera.recipe.judging import Judging, judge
from monstera.recipe.reading import read_recipe
from monstera.search.allocation import allocate
from monstera.search.calibration import fisher, gauss_newton
from monstera.search.costs.law import rank_correlation
from monstera.search.kept import KeptWeights
from monstera.search.proxy import loss_after_projection
from monstera.search.rules import DENSITIES, candidate_weights
from monstera.search.sensitivity import Curvature, by_magnitude, losses_of
from monstera.sparsity import Block, Entry, Plan, find_view

RECIPE = Path(__file__).with_name("cifar10_resnet20.yaml")
BLOCK = Block(4, 1)
PROJECTED = (0.5, 0.35, 0.25, 0.125)

Estimate: TypeAlias = Callable[[str, Sequence[float]], list[float]]


def main(
    calibrating: Annotated[int, typer.Option(min=1, help="Training pictures that calibrate, in batches of 32.")] = 512,
    judging: Annotated[int, typer.Option(min=1, help="Held-out pictures that judge.")] = 2000,
    output: Annotated[Path, typer.Option(help="The result file.")] = RECIPE.parent / "results/sensitivity.json",
) -> None:
    """Compare estimates with measured losses, and write both as JSON."""
    torch.set_num_threads(1)
    things = gather(recipe := read_recipe(RECIPE), str(RECIPE))
    model, asked = make_network(recipe, things.start, seed=0).eval(), Judging(pictures=judging)
    judged, some = judge(things, asked), things.train.take(torch.arange(calibrating))
    calibration = [*zip(things.normalised(some.images).split(32), some.labels.split(32), strict=True)]
    names = candidate_weights(model)

    def loss(model: nn.Module) -> float:
        with torch.no_grad():
            return float(np.mean([float(cross_entropy(model, batch)) for batch in judged.held_out]))

    def at_once(plan: Plan) -> float:
        prune(pruned := copy.deepcopy(model), plan)
        reestimate_batch_norm(pruned, judged.statistics)
        return loss(pruned)

    plans = {density: Plan.uniform(model, BLOCK, density) for density in PROJECTED}
    projected = {density: loss_after_projection(model, plan, loss) for density, plan in plans.items()}
    measured = np.array([projected[density][name] for name in names for density in PROJECTED])
    rows: dict[str, Any] = {"uniform": {density: at_once(plans[density]) for density in PROJECTED}}
    for label, estimate in estimates(model, names, calibration).items():
        guessed = np.array([value for name in names for value in estimate(name, PROJECTED)])
        losses = {density: at_once(shared_out(model, names, estimate, density)) for density in PROJECTED}
        rows[label] = {"rank_correlation": rank_correlation(guessed, measured), **losses}
        Console().print(label, rows[label])
    used = {"calibrating": calibrating, "judging": judging, "batch_norm": asked.statistics * asked.batch}
    facts = {"machine": asdict(this_machine()), "date": f"{datetime.now(timezone.utc):%Y-%m-%d}", "pictures": used}
    write_json({**facts, "dense": loss(model), "projected": projected, "estimates": rows}, output)


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def estimates(model: nn.Module, names: Sequence[str], calibration: Sequence[Any]) -> dict[str, Estimate]:
    """Those of `monstera.plan`, each without its logarithm, and that of a loss with its term of first order."""
    curvatures = {
        "weights alone": by_magnitude(model, names),
        "outputs": gauss_newton(model, names, [images for images, _ in calibration]),
        "Fisher": fisher(model, names, calibration, cross_entropy),
    }
    found = {label: partial(estimated, model, curvature) for label, curvature in curvatures.items()}
    found |= {f"{label}, no logarithm": partial(quadratic, model, c) for label, c in curvatures.items()}
    steep = partial(with_slope, model, curvatures["Fisher"], slopes(model, names, calibration))
    return found | {"Fisher, with first order": steep}


def estimated(model: nn.Module, curvature: Curvature, name: str, densities: Sequence[float]) -> list[float]:
    return losses_of(find_view(model, name), BLOCK, densities, curvature[name])


def quadratic(model: nn.Module, curvature: Curvature, name: str, densities: Sequence[float]) -> list[float]:
    """What the logarithm was taken of: q where the estimate is -t log(1 - q / t)."""
    t = float((0.5 * curvature[name] * find_view(model, name).weight.detach().square()).sum())
    return [-t * math.expm1(-loss / t) for loss in estimated(model, curvature, name, densities)]


def slopes(model: nn.Module, names: Sequence[str], calibration: Sequence[Any]) -> dict[str, Tensor]:
    """The gradient of the mean loss by each weight."""
    weights = [find_view(model, name).weight for name in names]
    batches = [torch.autograd.grad(cross_entropy(model, batch), weights) for batch in calibration]
    return {name: torch.stack(found).mean(0) for name, found in zip(names, zip(*batches, strict=True), strict=True)}


def with_slope(
    model: nn.Module, curvature: Curvature, slope: Mapping[str, Tensor], name: str, densities: Sequence[float]
) -> list[float]:
    """The estimate, and the gradient times what moves."""
    view = find_view(model, name)
    moved = [BLOCK.project(view, density) - view.weight.detach() for density in densities]
    first = [float((slope[name] * move).sum()) for move in moved]
    return [loss + rise for loss, rise in zip(estimated(model, curvature, name, densities), first, strict=True)]


def shared_out(model: nn.Module, names: Sequence[str], estimate: Estimate, density: float) -> Plan:
    """The plan of the least estimate that keeps so much of the weights."""
    kept = KeptWeights({name: find_view(model, name) for name in names})
    options = [None, *(Entry(BLOCK, density) for density in DENSITIES)]
    costs = [[kept.layer_ms(name, option) for option in options] for name in names]
    losses = [[0.0, *estimate(name, DENSITIES)] for name in names]
    picked = allocate(costs, losses, density * kept.dense_ms)
    return Plan({name: entry for name, i in zip(names, picked, strict=True) if (entry := options[i]) is not None})


if __name__ == "__main__":
    typer.run(main)
