"""What each layer may get: one pattern a density, with its cost and its loss, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from torch import nn

from monstera.search.blocks import choose_block, weights_per_group
from monstera.search.cost import Costs
from monstera.search.rules import Rules, candidate_weights, fitting, misfit, wants_kernels
from monstera.search.sensitivity import Curvature, losses_of
from monstera.sparsity import Entry, Pattern, WeightView, find_view


@dataclass(frozen=True, slots=True)
class Option:
    """A way a layer may be: with the holes of `entry` or, without, dense; `why` is the reason in words.

    `cost` is in the unit of the cost model, milliseconds as a rule; `loss` as the curvature has it, 0 for dense.
    """

    entry: Entry | None
    cost: float
    loss: float
    why: str


def options_of(model: nn.Module, costs: Costs, rules: Rules, curvature: Curvature) -> dict[str, tuple[Option, ...]]:
    """All options of every weight that may get holes, dense the first; a weight with one option stays dense.

    Raises:
        PlanError: no weight may get holes.
        PatternError: a weight is NaN.
    """
    return {name: _options(model, name, costs, rules, curvature) for name in candidate_weights(model)}


def _options(model: nn.Module, name: str, costs: Costs, rules: Rules, curvature: Curvature) -> tuple[Option, ...]:
    if name not in costs.weights:
        return (Option(None, 0.0, 0.0, "a call of the network does not use it"),)
    dense_ms = costs.layer_ms(name)
    view = find_view(model, name)
    chosen = _chosen(view, name, costs, rules)
    if not chosen:
        return (Option(None, dense_ms, 0.0, f"no pattern fits: {misfit(view, rules)}"),)
    lowest = min(entry.density for entry in chosen)
    fastest = min(ms for entry, (ms, _) in chosen.items() if entry.density == lowest)
    if dense_ms < rules.least_gain * fastest:
        gain = f"{dense_ms / fastest:.2f}x at density {lowest:.2g}"
        return (Option(None, dense_ms, 0.0, f"gains only {gain}"),)
    # Holes that do not pay are no holes.
    paying = {entry: found for entry, found in chosen.items() if found[0] < dense_ms}
    losses = _losses(view, name, paying, curvature)
    holes = (Option(entry, ms, losses[entry], why) for entry, (ms, why) in paying.items())
    return (Option(None, dense_ms, 0.0, "others gain more"), *holes)


def _chosen(view: WeightView, name: str, costs: Costs, rules: Rules) -> dict[Entry, tuple[float, str]]:
    """One entry a density, from large to small, with its time and the rule that chose it."""
    why = ""
    if wants_kernels(view, rules):
        kernels, why = _kernels(view, name, costs, rules)
        if kernels:
            return kernels
    found: dict[Entry, tuple[float, str]] = {}
    offered = {density: fitting(view, rules.blocks, density) for density in rules.densities}
    shape, layout = view.weight.shape, view.layout
    sizes = {p: weights_per_group(p, shape, layout) for p in dict.fromkeys(chain(*offered.values()))}
    for density, patterns in offered.items():
        if patterns:
            times_ms = {p: costs.layer_ms(name, Entry(p, density)) for p in patterns}
            block = choose_block(times_ms, sizes, rules.within)
            found[Entry(block, density)] = (times_ms[block], why + _block_in_words(block, times_ms, rules))
    return found


def _kernels(view: WeightView, name: str, costs: Costs, rules: Rules) -> tuple[dict[Entry, tuple[float, str]], str]:
    """Kernel patterns at all densities that they can have; none, and why, where they do not pay on this machine."""
    densities = [density for density in rules.densities if fitting(view, [rules.kernels], density)]
    if not densities:
        return {}, f"{rules.kernels} does not fit; "
    times_ms = {Entry(rules.kernels, d): costs.layer_ms(name, Entry(rules.kernels, d)) for d in densities}
    gain = costs.layer_ms(name) / times_ms[Entry(rules.kernels, densities[-1])]
    if gain < rules.least_gain:
        return {}, f"{rules.kernels} gains only {gain:.2f}x; "
    why = f"3x3 of stride 1 on {'a hard' if rules.hard else 'an easy'} task"
    return {entry: (ms, why) for entry, ms in times_ms.items()}, ""


def _block_in_words(block: Pattern, times_ms: Mapping[Pattern, float], rules: Rules) -> str:
    fastest = min(times_ms, key=lambda p: times_ms[p])
    if len(times_ms) == 1:
        return "the only block that fits"
    if block == fastest:
        return "the fastest block"
    return f"{fastest} is at most {rules.within:.0%} faster"


def _losses(
    view: WeightView, name: str, chosen: Mapping[Entry, tuple[float, str]], curvature: Curvature
) -> dict[Entry, float]:
    """One projection a pattern, not one a density."""
    losses: dict[Entry, float] = {}
    for pattern in dict.fromkeys(entry.pattern for entry in chosen):
        entries = [entry for entry in chosen if entry.pattern == pattern]
        densities = [entry.density for entry in entries]
        found = losses_of(view, pattern, densities, curvature[name])
        losses |= dict(zip(entries, found, strict=True))
    return losses
