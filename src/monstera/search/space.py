"""What a search may choose for every weight of a network, and its points as plans."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn

from monstera.search.cost import Costs
from monstera.search.rules import DENSITIES
from monstera.sparsity import Entry, KernelPattern, Plan, WeightView, find_view
from monstera.sparsity.entry import EntryLike, entries_of
from monstera.sparsity.pattern_names import PatternLike
from monstera.sparsity.rules import SKIPPED, candidates

Point: TypeAlias = tuple[int, ...]
Rule: TypeAlias = Callable[[WeightView, Entry], bool]

DENSE = "dense"
# Blocks that the kernels like, their extremes (single weights, whole filters), and patterns of 3x3 kernels.
PATTERNS: tuple[PatternLike, ...] = ("unstructured", "4x1", "8x1", "16x1", "filter", "patterns4of8")
_REFUSED = -1


@dataclass(frozen=True, slots=True)
class Space:
    """For each weight the actions it may take, of one list for all; a point is the number of an action for each weight.

    Actions that leave a weight with the same holes are one: `meaning` gives, for each weight and action, the first that
    does the same, or -1 where the action is not allowed. Action 0 leaves a weight dense.

    Attributes:
        weights: parameter names, in the order in which their layers run.
        actions: None for dense, then patterns with a density.
        meaning: one row a weight, one number an action.
        descriptors: what is known of each weight, numbers around 1: its place in the network, the logarithms of its
            sides, kernel positions, slices and size, and its share of the dense network's time.

    Raises:
        ValueError: the parts do not fit together, or a weight has nothing to choose.
    """

    weights: tuple[str, ...]
    actions: tuple[Entry | None, ...]
    meaning: tuple[tuple[int, ...], ...]
    descriptors: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.weights or len(self.weights) != len(self.meaning) or len(self.weights) != len(self.descriptors):
            raise ValueError("a space needs weights, and for each a row of `meaning` and of `descriptors`")
        if self.actions[:1] != (None,):
            raise ValueError(f"action 0 leaves a weight dense, so it is None; got {self.actions[:1]}")
        for name, row in zip(self.weights, self.meaning, strict=True):
            if len(row) != len(self.actions) or row[0] != 0:
                raise ValueError(f"{name}: expected {len(self.actions)} meanings, the first of them 0, got {row}")
            if wrong := [a for a in row if a != _REFUSED and row[a] != a]:
                raise ValueError(f"{name}: action {wrong[0]} has itself another meaning")

    @classmethod
    def of(
        cls,
        model: nn.Module,
        costs: Costs,
        patterns: Iterable[PatternLike] = PATTERNS,
        densities: Iterable[float] = DENSITIES,
        *,
        skip: Collection[str] = SKIPPED,
        rule: Rule | None = None,
    ) -> Space:
        """Every pattern at every density, for all weights that both `skip` leaves and `costs` knows.

        Left out of a weight's choice are entries that do not fit it, those that the rule forbids, and those that make
        the same holes in it as one before. Weights without a choice are left out. Patterns that know their own density,
        as N:M do, are there once.

        Args:
            model: read only; which actions are the same is read off its weights.
            skip: as for `Plan.uniform`; depthwise layers, the first convolution and the last linear layer stay dense.
            rule: whether a weight may have an entry; default `kernel_patterns_on_3x3`.

        Raises:
            PlanError: `skip` names what is not there, or leaves nothing.
            ValueError: a pattern competes across layers, or no weight has a choice.
        """
        entries = _entries(patterns, densities)
        left = set(candidates(model, skip))
        actions: tuple[Entry | None, ...] = (None, *entries)
        views = {name: find_view(model, name) for name in costs.weights if name in left}
        rows = {name: _meanings(view, entries, rule or kernel_patterns_on_3x3) for name, view in views.items()}
        chosen = [name for name, row in rows.items() if max(row) > 0]
        if not chosen:
            raise ValueError(
                f"no weight has a choice: of {len(left)} that `skip` leaves, {len(views)} are in the costs, and no "
                "pattern and density fits any of them; give other patterns or densities"
            )
        described = tuple(_described(views[n], costs.layer_ms(n) / costs.dense_ms) for n in chosen)
        places = ((index + 1) / len(chosen) for index in range(len(chosen)))
        descriptors = tuple((place, *facts) for place, facts in zip(places, described, strict=True))
        return cls(tuple(chosen), actions, tuple(rows[n] for n in chosen), descriptors)

    # ---- points -----------------------------------------------------------------------------------------------------

    def allowed(self, weight: int) -> tuple[int, ...]:
        """The actions that the weight at this place may take, each with holes of its own."""
        return tuple(action for action, meant in enumerate(self.meaning[weight]) if action == meant)

    @property
    def size(self) -> int:
        """How many points there are."""
        return math.prod(len(self.allowed(weight)) for weight in range(len(self.weights)))

    def label(self, action: int) -> str:
        """Name an action as plans print it."""
        return DENSE if (entry := self.actions[action]) is None else str(entry)

    def canonical(self, point: Point) -> Point:
        """The same holes, each action by the first that makes them.

        Raises:
            ValueError: the point has another length, or an action that a weight may not take.
        """
        if len(point) != len(self.weights):
            raise ValueError(f"a point has an action for each of {len(self.weights)} weights, got {len(point)}")
        meant = tuple(row[action] for row, action in zip(self.meaning, point, strict=True))
        if _REFUSED in meant:
            place = meant.index(_REFUSED)
            raise ValueError(f"{self.weights[place]}: {self.label(point[place])} is not allowed there")
        return meant

    def plan(self, point: Point) -> Plan:
        """The plan of a point; dense weights are not in it.

        Raises:
            ValueError: see `canonical`.
        """
        meant = ((name, self.actions[a]) for name, a in zip(self.weights, self.canonical(point), strict=True))
        return Plan({name: entry for name, entry in meant if entry is not None})

    def point(self, plan: Mapping[str, EntryLike]) -> Point:
        """The point of a plan, whatever names it gives to the same holes.

        Raises:
            ValueError: the plan has a weight or an entry that the space has not; all are named.
        """
        entries = entries_of(plan)
        problems = [f"{name}: not a weight of the space" for name in entries if name not in self.weights]
        point = [self._action(name, entries[name], problems) if name in entries else 0 for name in self.weights]
        if problems:
            raise ValueError("the plan is no point of the space:\n  - " + "\n  - ".join(problems))
        return self.canonical(tuple(point))

    def fastest(self, costs: Costs) -> Point:
        """The point whose layers each take the least time."""
        rows = ((name, self.allowed(place)) for place, name in enumerate(self.weights))
        return tuple(min(actions, key=lambda a: costs.layer_ms(name, self.actions[a])) for name, actions in rows)

    def _action(self, name: str, entry: Entry, problems: list[str]) -> int:
        if entry.density == 1 and not entry.pattern.constrains_values:
            return 0
        row = self.meaning[self.weights.index(name)]
        action = self.actions.index(entry) if entry in self.actions else _REFUSED
        if action == _REFUSED or row[action] == _REFUSED:
            problems.append(f"{name}: {entry} is not among {self._listed(name)}")
            return 0
        return action

    def _listed(self, name: str) -> str:
        """What a weight may be, each pattern with its densities."""
        densities: dict[str, list[str]] = {}
        for action in self.allowed(self.weights.index(name)):
            if entry := self.actions[action]:
                densities.setdefault(str(entry.pattern), []).append(f"{entry.density:g}")
        return "; ".join([DENSE, *(f"{pattern} at {', '.join(at)}" for pattern, at in densities.items())])

    # ---- studies ----------------------------------------------------------------------------------------------------

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """Weight -> the labels of what it may be: the parameters of a trial."""
        return {name: tuple(map(self.label, self.allowed(place))) for place, name in enumerate(self.weights)}

    def params(self, point: Point) -> dict[str, str]:
        """A point as the parameters of a trial."""
        return dict(zip(self.weights, map(self.label, self.canonical(point)), strict=True))

    def point_of(self, params: Mapping[str, str]) -> Point:
        """The inverse of `params`."""
        actions = {self.label(action): action for action in range(len(self.actions))}
        return tuple(actions[params[name]] for name in self.weights)

    @property
    def fingerprint(self) -> str:
        """Name the weights, the actions and what is allowed: 16 hexadecimal digits."""
        labels = [self.label(action) for action in range(len(self.actions))]
        return hashlib.sha256(repr((self.weights, labels, self.meaning)).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{len(self.weights)} weights, up to {len(self.actions)} actions each, {self.size:.3g} points"


def kernel_patterns_on_3x3(view: WeightView, entry: Entry) -> bool:
    """Whether a weight may have an entry: patterns of kernels are for kernels of 3x3, all else is for all.

    Source: Y. Gong et al., "Automatic Mapping of the Best-Suited DNN Pruning Schemes", arXiv 2111.11581.
    """
    return not isinstance(entry.pattern, KernelPattern) or tuple(view.weight.shape[2:]) == (3, 3)


def _entries(patterns: Iterable[PatternLike], densities: Iterable[float]) -> tuple[Entry, ...]:
    """Every pattern at every density it can have; those dense in name alone are left to action 0."""
    densities = tuple(densities)
    found: dict[Entry, None] = {}
    for name in patterns:
        for entry in _at_densities(name, densities):
            if entry.pattern.scope == "network":
                raise ValueError(f"{entry.pattern}: a space chooses weight by weight, so nothing may compete across")
            if entry.density < 1 or entry.pattern.constrains_values:
                found[entry] = None
    return tuple(found)


def _at_densities(pattern: PatternLike, densities: tuple[float, ...]) -> list[Entry]:
    try:
        return [Entry(pattern)]  # one that knows its own density
    except ValueError:
        return [Entry(pattern, density) for density in densities]


def _meanings(view: WeightView, entries: tuple[Entry, ...], rule: Rule) -> tuple[int, ...]:
    shape, layout = view.weight.shape, view.layout
    first: dict[bytes, int] = {_digest(view.weight.detach()): 0}
    row = [0]
    for action, entry in enumerate(entries, start=1):
        fits = rule(view, entry) and entry.pattern.feasible(entry.density, shape, layout)
        projected = entry.pattern.project(view, entry.density) if fits else None
        row.append(_REFUSED if projected is None else first.setdefault(_digest(projected), action))
    return tuple(row)


def _digest(weight: Tensor) -> bytes:
    return hashlib.sha256(weight.contiguous().cpu().float().numpy().tobytes()).digest()


def _described(view: WeightView, share: float) -> tuple[float, ...]:
    slices, out, in_, positions = view.layout.extents(view.weight.shape)
    sides = (math.log2(n) / 10 for n in (out, in_, positions, slices, view.weight.numel()))
    return (*sides, share)
