"""Meets a goal: options for every layer, the budget shared out, the plan measured and corrected."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from traceback import walk_stack
from typing import TypeAlias

from torch import nn

from monstera.search.allocation import allocate
from monstera.search.cost import Costs
from monstera.search.goal import Goal, GoalError
from monstera.search.masked import Measure
from monstera.search.options import Option, options_of
from monstera.search.planned import Decision, Planned
from monstera.search.rules import Rules, dense_by_role, listed_weights
from monstera.search.sensitivity import Curvature
from monstera.sparsity import Plan

# So many plans are chosen and measured at most, when what is measured is not what was predicted.
TRIES = 6
TOLERANCE = 0.05
# How much slower than the goal a plan may be and still be one for it.
_TOO_SLOW = 0.5
# Budgets closer than this are not halved any more where time falls between them: no budget lies there.
_NEAR = 1.05
# What floating point may be off by when the best is asked for.
_SLACK = 1e-9

Options: TypeAlias = Mapping[str, tuple[Option, ...]]


def plan_for(
    model: nn.Module,
    goal: Goal,
    costs: Costs,
    *,
    rules: Rules,
    curvature: Curvature,
    measure: Measure | None = None,
    tolerance: float = TOLERANCE,
) -> Planned:
    """Choose a pattern and a density for every layer, by any cost model; the model is not changed.

    Options come from the rules, one density a layer from the allocation with the least loss. With `measure` the plan is
    measured; further than `tolerance` from the goal, the budget is corrected by what came out and the plan chosen anew,
    `TRIES` times in all. The nearest is returned, with a warning if it is still further away; where none is faster than
    the dense network, and at most half slower than the goal, there is no plan to return.

    Args:
        goal: for a density, `costs` count weights (`KeptWeights`) and there is nothing to measure.
        curvature: of all candidates, see `curvature_of`.

    Raises:
        GoalError: out of reach, by what is predicted or by what is measured, or reached without any holes.
        PlanError: the model has no weight that may get holes.
    """
    options = options_of(model, costs, rules, curvature)
    _check_reachable(model, goal, costs, rules, curvature, options)
    budget = max(goal.budget(costs.dense_ms), _least(costs, options))
    found: list[Planned] = []
    settled: dict[str, Option] = {}
    tries: list[_Try] = []  # those that have what is settled
    for _ in range(1 if measure is None else TRIES):
        chosen = _pick(costs, options, budget, settled)
        plan = Plan({name: option.entry for name, option in chosen.items() if option.entry is not None})
        if not plan or any(plan == before.plan for before in found):
            break
        measured = None if measure is None else measure(plan)
        if measured is not None:
            _refuse_reached(goal, measured.dense_ms)
        cost, decisions = costs.network_ms(plan), _decisions(model, chosen, options, costs)
        found.append(Planned(plan, goal, decisions, costs.dense_ms, cost, measured))
        if measured is None or abs(found[-1].off) <= tolerance:
            break
        tries.append(_Try(found[-1], chosen))
        fast, slow = _sides(tries)
        if fast and slow and _cliff(fast.planned, slow.planned):
            settled |= {name: option for name, option in fast.chosen.items() if option != slow.chosen[name]}
            tries = [fast]
        budget = max(_least(costs, options), _corrected(tries))
    return _nearest(found, tolerance)


def _fixed(costs: Costs, options: Options) -> float:
    """What no option changes: all that has no weights, and weights that no rule speaks of."""
    return costs.network_ms({}) - sum(layer[0].cost for layer in options.values())


def _least(costs: Costs, options: Options) -> float:
    return _fixed(costs, options) + sum(min(option.cost for option in layer) for layer in options.values())


def _pick(costs: Costs, options: Options, budget: float, settled: Mapping[str, Option]) -> dict[str, Option]:
    offered = {name: (settled[name],) if name in settled else layer for name, layer in options.items()}
    layers = offered.values()
    picked = allocate(
        [[option.cost for option in layer] for layer in layers],
        [[option.loss for option in layer] for layer in layers],
        budget - _fixed(costs, options),
    )
    return {name: offered[name][i] for name, i in zip(offered, picked, strict=True)}


def _check_reachable(
    model: nn.Module, goal: Goal, costs: Costs, rules: Rules, curvature: Curvature, options: Options
) -> None:
    dense, least, budget = costs.dense_ms, _least(costs, options), goal.budget(costs.dense_ms)
    _refuse_reached(goal, dense)
    if budget >= least * (1 - _SLACK):
        return
    best = goal.within_reach(goal.reached(dense, least))
    lines = [
        f"{goal} is out of reach; with every layer at its fastest the network would be at {goal.show(best)}. "
        f"Ask for no more than that, offer other patterns, or let layers be sparser than {rules.densities[-1]:g} "
        "(Rules.densities, monstera.search.choose)"
    ]
    if goal.timed:
        stuck = least - sum(min(o.cost for o in layer) for layer in options.values() if len(layer) > 1)
        lines.append(f"{stuck:.3g} ms of {dense:.3g} stay whatever the plan: layers left dense and what has no weights")
    if rules.with_kernels:
        blocks = replace(rules, hard=not rules.hard)
        other = goal.within_reach(goal.reached(dense, _least(costs, options_of(model, costs, blocks, curvature))))
        lines.append(f"without kernel patterns (hard={blocks.hard}) it would be at {goal.show(other)}")
    raise GoalError("; ".join(lines), best)


def _refuse_reached(goal: Goal, dense_ms: float) -> None:
    if goal.budget(dense_ms) >= dense_ms:
        raise GoalError(f"the dense network takes {dense_ms:.4g} ms, so {goal} needs no holes", dense_ms)


@dataclass(frozen=True, slots=True)
class _Try:
    planned: Planned
    chosen: Mapping[str, Option]


def _corrected(tries: Sequence[_Try]) -> float:
    """The budget of the next plan: as far from the last one as that was from the goal, or halfway between two.

    Time may fall all at once as budgets shrink, where a layer keeps so little that channels around it die. Steps as
    large as the miss would jump to and fro over that, so that what is known on both sides of the goal is halved.
    """
    last = tries[-1].planned
    step = last.cost / (1 + last.off)
    fast, slow = _sides(tries)
    above = slow.planned.cost if slow else None
    if above is None and step >= last.dense_cost:
        # No holes at all are too slow, which nobody had to measure.
        above = last.dense_cost
    return step if above is None or fast is None else (fast.planned.cost * above) ** 0.5


def _sides(tries: Sequence[_Try]) -> tuple[_Try | None, _Try | None]:
    """The costliest plan that was too fast, and the cheapest beyond it that was too slow."""
    fast = max((one for one in tries if one.planned.off < 0), key=_cost, default=None)
    least = 0.0 if fast is None else fast.planned.cost
    slow = (one for one in tries if one.planned.off > 0 and one.planned.cost > least)
    return fast, min(slow, key=_cost, default=None)


def _cost(one: _Try) -> float:
    return one.planned.cost


def _cliff(fast: Planned, slow: Planned) -> bool:
    """Whether two plans that should be near each other lie on both sides of a fall of the time.

    Then no budget is left between them: where they differ the fast one is kept, and what it saves goes elsewhere.
    """
    predicted, measured = slow.cost / fast.cost, (1 + slow.off) / (1 + fast.off)
    return predicted < _NEAR and measured > predicted**2


def _decisions(model: nn.Module, chosen: Mapping[str, Option], options: Options, costs: Costs) -> tuple[Decision, ...]:
    roles, decisions = dense_by_role(model), []
    for name in listed_weights(model):
        if name in chosen:
            taken, dense = chosen[name], options[name][0]
            decisions.append(Decision(name, taken.entry, taken.why, dense.cost, taken.cost, taken.loss))
        else:
            cost = costs.layer_ms(name) if name in costs.weights else 0.0
            decisions.append(Decision(name, None, roles[name], cost, cost, 0.0))
    return tuple(decisions)


def _nearest(found: Sequence[Planned], tolerance: float) -> Planned:
    """The one that is nearest to the goal, with the number of all tries; far ones are told, useless ones refused."""
    if found[-1].measured is None:
        return found[-1]
    useful = [planned for planned in found if _useful(planned, tolerance)]
    best = min(useful or found, key=lambda planned: abs(planned.off))
    plans = "the only plan" if len(found) == 1 else f"the nearest of {len(found)} plans"
    told = f"asked for {best.goal}, measured {best.goal.show(best.reached)} with {plans}"
    if not useful:
        raise GoalError(
            f"{told} ({best.measured}). Ask for less, offer other patterns, or give density=, for which nothing is "
            "timed; if other programs run on this machine, try again when they do not",
            best.reached,
        )
    if abs(best.off) > tolerance:
        warnings.warn(f"{told}: time goes in steps, or this machine is busy", stacklevel=_callers_level())
    return replace(best, tries=len(found))


def _useful(planned: Planned, tolerance: float) -> bool:
    """Whether it was measured to be faster than dense, and fast enough to be an answer at all."""
    return planned.measured is not None and planned.measured.gain > 1 and planned.off <= max(_TOO_SLOW, tolerance)


def _callers_level() -> int:
    """How many frames up from who calls this the first is that is not of this package."""
    frames = (frame.f_globals.get("__name__", "") for frame, _ in walk_stack(sys._getframe(1)))
    return 1 + sum(1 for _ in takewhile(lambda name: name.startswith("monstera."), frames))
