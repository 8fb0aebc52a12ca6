"""`costs_of`: the costs of a network on this machine, measured where needed, or on another from its table."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from monstera.compiler.targets import Target, platform_of, target_named
from monstera.measure.answers import Inputs
from monstera.runtime.machine import shortfall
from monstera.search.costs.bench import asked_of, is_dense_known, measured, rounds_of
from monstera.search.costs.law import Law, fit_law, rest_bound_ms
from monstera.search.costs.network import LayerCosts, NetworkCosts, alone, curve_of
from monstera.search.costs.signature import Signature
from monstera.search.costs.subject import Subject, subject_of
from monstera.search.costs.table import CostTable, CostTableError, cached_costs, keep_costs, read_costs
from monstera.sparsity import Pattern, Plan, pattern
from monstera.sparsity.pattern_names import PatternLike

# Between these the time of a layer is nearly affine in density.
DENSITIES = (0.5, 0.25, 0.12, 0.06, 0.03)
PATTERNS = ("4x1",)


def costs_of(
    model: nn.Module,
    example: Inputs,
    *,
    patterns: Sequence[PatternLike] = PATTERNS,
    densities: Sequence[float] = DENSITIES,
    threads: int = 1,
    target: str = "native",
    table: CostTable | str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> NetworkCosts:
    """Say what a network costs under any plan: milliseconds of its layers, and of a call.

    Times of patterns in its layers are measured in the network itself, at some densities, and kept on this machine by
    what a layer is; only what is missing is measured, for two and a half minutes at most. What is missing then comes
    with the next call. An interrupted measurement keeps what it has.

    Args:
        model, example, threads, target: as for `monstera.compile`. The model is not modified; its own holes are filled.
        patterns: those to measure; others are predicted.
        densities: where to measure, in (0, 1]; dense always is.
        table: a table of another machine (`read_costs`), or the path of one: nothing is measured then, and `target` is
            the table's. What it lacks is predicted by a law fitted to what it has.
        quiet: show no progress.

    Raises:
        ValueError: a density outside (0, 1], or a target that this machine cannot run, or not that of the table.
        CostTableError: `table` is the path of something else, or it lacks layers and is too small to predict them.
        PatternError: an unknown pattern.
        UnsupportedError, BuildError: as for `monstera.compile`.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3)).eval()
        >>> costs = costs_of(model, torch.zeros(1, 8, 16, 16), densities=(0.25,), quiet=True)
        >>> costs.weights
        ('0.weight',)
    """
    # In the rounds of a measurement layers would compete, and none would have the density that it is recorded with.
    chosen = tuple(dict.fromkeys(alone(pattern(p)) for p in patterns))
    if wrong := [d for d in densities if not 0 < d <= 1]:
        raise ValueError(f"densities are kept fractions, in (0, 1]; got {wrong[0]}")
    if table is not None:
        given = table if isinstance(table, CostTable) else read_costs(table)
        _check_target(given, target)
        return network_costs(subject_of(model, example, threads), given)
    here = target_named(target)
    if lack := shortfall(platform_of(here), here.features):
        raise ValueError(f"costs are measured, and this machine cannot run {here.name}: {lack}; pass a table of one")
    subject = subject_of(model, example, threads)
    return network_costs(subject, _measured_here(subject, chosen, densities, here, quiet))


def _check_target(table: CostTable, target: str) -> None:
    if target not in ("native", table.machine.target):
        raise ValueError(f"target is {target!r}, but the table holds times of {table.machine.target!r}; leave it out")


def _measured_here(
    subject: Subject, patterns: Sequence[Pattern], densities: Sequence[float], target: Target, quiet: bool
) -> CostTable:
    table = cached_costs(target)
    asked = asked_of(subject, patterns, densities)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as bars:
        rounds = len(rounds_of(subject, asked, table))
        task = bars.add_task("measuring layers", total=rounds, visible=rounds > 0)
        for table in measured(subject, asked, table, target):  # noqa: B020
            keep_costs(table, target)
            bars.advance(task)
    return table


def network_costs(subject: Subject, table: CostTable) -> NetworkCosts:
    """What a table says of a network.

    Raises:
        CostTableError: it lacks layers and is too small to predict them.
    """
    law = _law(table, subject.threads, needed=not is_dense_known(subject, table))
    layers = {name: _layer(signature, table, law) for name, signature in subject.signatures.items()}
    rest = table.rests.get(subject.fingerprint)
    if rest is not None:
        ms = rest.ms
    else:
        assert law is not None
        bytes_, macs = _rest_work(subject, target_named(table.machine.target))
        ms = law.rest_factor * rest_bound_ms(bytes_, macs)
    return NetworkCosts(layers, ms, rest is not None, law, table.machine, subject.threads)


def _law(table: CostTable, threads: int, *, needed: bool) -> Law | None:
    try:
        return fit_law(table, threads)
    except CostTableError:
        if needed:
            raise
        return None


def _layer(signature: Signature, table: CostTable, law: Law | None) -> LayerCosts:
    dense, record = table.point(signature), table.layers.get(signature.key)
    by_pattern: dict[str, list] = {}
    for point in record.points if record else ():
        if point.pattern:
            by_pattern.setdefault(point.pattern, []).append(point)
    if dense is None:
        assert law is not None
        ms = law.ms(signature)
    else:
        ms = dense.ms
    curves = {name: curve_of(points, ms) for name, points in by_pattern.items()}
    return LayerCosts(signature, ms, dense is not None, curves)


def _rest_work(subject: Subject, target: Target) -> tuple[int, int]:
    """Bytes and multiply-accumulates of steps that belong to no weight."""
    program = subject.program(subject.imported(Plan(), own=True), target)
    steps = [step for step in program.steps if step.layer not in subject.views]
    return sum(step.work.bytes for step in steps), sum(step.work.macs for step in steps)
