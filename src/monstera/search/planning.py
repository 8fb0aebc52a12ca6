"""`plan`: which holes, in which layer, for a speedup, a latency or a density. Seconds, and no training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from torch import nn

from monstera.measure import this_machine
from monstera.search.budget import TOLERANCE, plan_for
from monstera.search.calibration import Loss, fisher, gauss_newton
from monstera.search.costs import CostTable, costs_of
from monstera.search.goal import Goal
from monstera.search.kept import KeptWeights
from monstera.search.masked import measure_of
from monstera.search.planned import Planned
from monstera.search.rules import Rules, candidate_weights
from monstera.search.sensitivity import Curvature, by_magnitude
from monstera.sparsity import Block, PatternLike, Plan, PlanError, find_view
from monstera.sparsity import pattern as pattern_of


def plan(
    model: nn.Module,
    example: Any = None,
    *,
    speedup: float | None = None,
    latency_ms: float | None = None,
    density: float | None = None,
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    patterns: Sequence[PatternLike] | None = None,
    hard: bool = False,
    threads: int = 1,
    target: str = "native",
    table: CostTable | str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Plan:
    """Choose which holes go where, for a speedup, a latency or a density, and print why, layer by layer.

    Nothing is trained. Layers that gain too little stay dense, and so do the first convolution, depthwise ones and the
    last linear layer. At the end a masked copy is compiled and measured here. `choose` does the same by any rules.

    Args:
        model: in evaluation mode, as for `monstera.compile`; not modified.
        example: what it is called with, as for `monstera.compile`; not needed for a density.
        speedup, latency_ms: against our own dense engine on as many threads, or of one call. One goal is given.
        density: kept share of the weights that may get holes; nothing is timed.
        calibration: batches by which layers are weighed against each other: what the model is called with or, with a
            `loss`, whatever that takes. Without any the weights alone decide.
        loss: `loss(model, batch)`, the mean over a batch as a scalar tensor.
        patterns: candidates for every layer, patterns or short names; by default blocks, "4x1" alone for a density.
        hard: kernel patterns for 3x3 convolutions, where they pay: for tasks such as ImageNet, not for CIFAR-10.
        threads, target: as for `monstera.compile`.
        table: of measured costs, or its path, for a plan for another machine; see `costs_of`.
        quiet: do not print.

    Raises:
        GoalError: out of reach, with the best that is in reach; or reached without any holes; or no plan was
            measured to be faster than dense and at most half slower than the goal.
        ValueError, PlanError, PatternError, TypeError, UnsupportedError, BuildError: as for `choose`.

    Example:
        >>> model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> print(plan(model, density=0.3, patterns=["4x1"], quiet=True))
        0.weight  4x1 at density 0.25
    """
    goal = Goal(speedup, latency_ms, density)
    planned = choose(
        model,
        example,
        goal,
        rules=_rules(goal, patterns, hard),
        calibration=calibration,
        loss=loss,
        threads=threads,
        target=target,
        table=table,
        quiet=quiet,
    )
    if not quiet:
        Console().print(planned, highlight=False)
    return planned.plan


def choose(
    model: nn.Module,
    example: Any,
    goal: Goal,
    *,
    rules: Rules,
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    threads: int = 1,
    target: str = "native",
    table: CostTable | str | os.PathLike[str] | None = None,
    tolerance: float = TOLERANCE,
    quiet: bool = False,
) -> Planned:
    """What `plan` does, by any rules, with the reasons; nothing but the progress of measuring costs is printed.

    Args:
        table: of measured costs, or its path; without one this machine's is used, and what it lacks is measured first.
            A plan by the table of another machine is not measured here.
        tolerance: how far from the goal, as a share of the cost, the measured plan may be before it is corrected.

    Raises:
        GoalError: out of reach, with the best that is in reach; or reached without any holes.
        ValueError: a model in training mode, time without an example, or no tolerance; see `costs_of`.
        PlanError: the model has no weight that may get holes, or one is NaN.
        PatternError: an unknown pattern.
        TypeError: batches of another kind, see `gauss_newton` and `fisher`.
        UnsupportedError, BuildError: as for `monstera.compile`.
    """
    if tolerance <= 0:
        raise ValueError(f"tolerance is a share above 0, got {tolerance}")
    if goal.timed and example is None:
        raise ValueError(f"{goal}: time needs an example, what the model is called with; a density needs none")
    names = candidate_weights(model)
    curvature = curvature_of(model, names, calibration, loss)
    if not goal.timed:
        kept = KeptWeights({name: find_view(model, name) for name in names})
        return plan_for(model, goal, kept, rules=rules, curvature=curvature)
    costs = costs_of(
        model,
        example,
        patterns=rules.patterns,
        threads=threads,
        target=target,
        table=table,
        quiet=quiet,
    )
    # Times of another machine cannot be confirmed on this one.
    here = costs.machine.cpu == this_machine().cpu
    measure = measure_of(model, example, threads, costs.machine.target) if here else None
    return plan_for(model, goal, costs, rules=rules, curvature=curvature, measure=measure, tolerance=tolerance)


def curvature_of(
    model: nn.Module, names: Sequence[str], calibration: Iterable[Any] | None = None, loss: Loss | None = None
) -> Curvature:
    """The curvature of named weights: by the weights alone, by the outputs on batches, or by a loss on them.

    Raises:
        ValueError, TypeError: a loss without batches; see `gauss_newton` and `fisher`.
        PlanError: a weight is NaN or infinite.
    """
    refuse_unreal(model, names)
    if calibration is None and loss is not None:
        raise ValueError("loss needs calibration=[batch, ...], the batches that it is called with")
    if calibration is None:
        return by_magnitude(model, names)
    return gauss_newton(model, names, calibration) if loss is None else fisher(model, names, calibration, loss)


def refuse_unreal(model: nn.Module, names: Sequence[str]) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        PlanError: with the name of each, and how many.
    """
    counts = {name: int((~find_view(model, name).weight.detach().isfinite()).sum()) for name in names}
    if problems := [f"{name}: {count} weights are NaN or infinite" for name, count in counts.items() if count]:
        raise PlanError(problems)


def _rules(goal: Goal, patterns: Sequence[PatternLike] | None, hard: bool) -> Rules:
    if isinstance(patterns, str):
        raise ValueError(f"patterns is a list of patterns, got the text {patterns!r}; write [{patterns!r}]")
    if patterns is None:
        # Where nothing is timed nothing says that larger blocks are faster.
        return Rules(hard=hard) if goal.timed else Rules((Block(4, 1),), hard=hard)
    return Rules(tuple(map(pattern_of, patterns)), hard=hard)
