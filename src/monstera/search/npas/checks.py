"""What would end a run of NPAS hours after it began, told before it begins."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from math import ceil

import torch
from torch import Tensor, nn

from monstera.measure.peers import torch_threads
from monstera.search.goal import GoalError
from monstera.search.npas.base import base_network
from monstera.search.npas.candidate import build
from monstera.search.npas.latency import measured_ms, surviving_macs
from monstera.search.npas.settings import NpasSettings, Rival, Split
from monstera.search.npas.space import smallest_schemes
from monstera.search.npas.unfriendly import replace_unfriendly
from monstera.sparsity import Plan, projected_copy


def check(model: nn.Module, split: Split, settings: NpasSettings, rivals: Mapping[str, Rival]) -> None:
    """Refuse batches that there are no examples for, and baselines that the network or a rival cannot have.

    Raises:
        ValueError: with everything that is wrong.
    """
    if problems := [*_batches(split, settings), *_baselines(model, settings, rivals)]:
        raise ValueError("this run would fail on its way:\n  - " + "\n  - ".join(problems))


def check_reach(model: nn.Module, example: Tensor, settings: NpasSettings) -> None:
    """Refuse a budget below what the smallest schemes of the space cost.

    A cost is that of weights of any value, so that nothing has to be trained for it.

    Args:
        model: not changed; it may be one that has not been trained.
        example: one call's input.

    Raises:
        GoalError: with the least budget that can be asked for.
    """
    timed, threads = settings.search.cost == "ms", settings.threads
    base = copy.deepcopy(model).eval()
    # Layers in the place of others have weights drawn by chance, which is nobody else's.
    with torch.random.fork_rng(devices=[]), torch_threads(threads):
        if timed:
            base, _ = replace_unfriendly(base, example, least_saving=settings.least_saving, threads=threads)
        found = base_network(base, example, **settings.space)
        smallest = [projected_copy(*build(found, scheme)).eval() for scheme in smallest_schemes(found.space)]
        dense, *costs = (
            measured_ms(network, example, threads=threads) if timed else float(surviving_macs(network, example))
            for network in (base, *smallest)
        )
    if (least := min(costs)) > settings.budget * dense:
        best = ceil(1000 * least / dense) / 1000
        raise GoalError(
            f"budget: {settings.budget:g} of what a call of the base network costs was asked for, but the smallest "
            f"scheme takes {least:.4g} of {dense:.4g} {settings.search.cost}; ask for {best:g} or more, or allow lower "
            f"densities or other filter types",
            best,
        )


def _batches(split: Split, settings: NpasSettings) -> Iterator[str]:
    counts = {"tune": len(split.train), "full": len(split.train)}
    try:
        subset = len(split.train.balanced(settings.subset))
        counts |= {"fast": subset, "short": subset}
    except ValueError as error:
        yield f"subset: {error}"
    for name, count in counts.items():
        if (size := getattr(settings, name).batch_size) > count:
            yield f"{name}.batch_size: expected at most the {count} examples that there are, got {size}"


def _baselines(model: nn.Module, settings: NpasSettings, rivals: Mapping[str, Rival]) -> Iterator[str]:
    for name in rivals.keys() & {"npas", "original", *settings.baselines}:
        yield f"rivals.{name}: is the name of another network of the run"
    own = {f"baselines.{name}": (model, holes) for name, holes in settings.baselines.items()}
    for name, (network, holes) in (own | {f"rivals.{n}": (r.model, r.holes) for n, r in rivals.items()}).items():
        if holes is None:
            continue
        try:
            Plan.uniform(network, *holes)
        except ValueError as error:
            yield f"{name}: {error}"
