"""A plan: for every weight that gets holes, the pattern and the density. It projects, checks and verifies a network."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn

from monstera.sparsity import plan_file
from monstera.sparsity.competition import network_masks, pools
from monstera.sparsity.entry import Entry, EntryLike, entries_of
from monstera.sparsity.errors import PlanError, ViewError
from monstera.sparsity.files import write_atomically
from monstera.sparsity.pattern_names import PatternLike
from monstera.sparsity.report import PlanReport, WeightReport
from monstera.sparsity.rules import SKIPPED, Rule, candidates, matched
from monstera.sparsity.ties import Ties
from monstera.sparsity.view import PLAIN, Layout, WeightView, find_view

Weights: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Plan(Mapping[str, Entry]):
    """Parameter name -> `Entry`, immutable. Weights without an entry stay dense; a shared parameter has one entry.

    Entries of scope "network" compete with all entries of the same pattern and density.

    Raises:
        PlanError: with everything that is wrong.

    Example:
        >>> plan = Plan({"layer1.0.conv1.weight": ("4x1", 0.25)}) | Plan({"fc.weight": ("2:4",)})
        >>> print(plan["fc.weight"])
        2:4 at density 0.5
    """

    entries: Mapping[str, Entry]

    def __init__(self, entries: Mapping[str, EntryLike] | None = None) -> None:
        object.__setattr__(self, "entries", entries_of(entries or {}))

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __or__(self, other: Mapping[str, EntryLike]) -> Plan:
        """Both plans; where both name a weight, the right one wins."""
        return Plan({**self.entries, **other})

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:<{width}}  {entry}" for name, entry in self.items()) or "(empty plan)"

    # ---- making -----------------------------------------------------------------------------------------------------

    @classmethod
    def uniform(
        cls,
        model: nn.Module,
        pattern: PatternLike,
        density: float | None = None,
        *,
        skip: Collection[str] = SKIPPED,
    ) -> Plan:
        """The same pattern and density for all weights but those in `skip`; embedding tables stay dense too.

        Args:
            model: read only.
            pattern: a pattern or its short name.
            density: kept fraction of groups; may be left out for N:M.
            skip: any of "first_conv" (in order of registration), "depthwise", "last_linear", and globs of parameter or
                module names. `skip=()` leaves nothing out.

        Raises:
            PlanError: nothing is left to prune, `skip` names what is not there, or the pattern does not fit a weight.
        """
        plan = cls(dict.fromkeys(candidates(model, skip), (pattern, density)))
        plan.check(model)
        return plan

    @classmethod
    def of(cls, model: nn.Module, rules: Mapping[Rule, EntryLike | None]) -> Plan:
        """A plan by rules: a glob of parameter or module names, a module type, or a module object -> entry.

        A module stands for its weights and those of all modules in it. Later rules win; None leaves weights dense.

        Raises:
            PlanError: a rule matches no weight, or a pattern does not fit.

        Example:
            >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
            >>> print(Plan.of(model, {nn.Linear: ("4x1", 0.25), "2": None}))
            0.weight  4x1 at density 0.25
        """
        entries: dict[str, EntryLike] = {}
        for names, value in zip(matched(model, list(rules)), rules.values(), strict=True):
            for name in names:
                entries.pop(name, None)
                if value is not None:
                    entries[name] = value
        plan = cls(entries)
        plan.check(model)
        return plan

    # ---- projecting -------------------------------------------------------------------------------------------------

    def layouts(self, model: nn.Module) -> dict[str, Layout]:
        """How each planned weight of the model holds its parts and convolution groups: pass it to `masks`, `project`.

        Raises:
            PlanError: the plan does not fit the model.
        """
        self.check(model)
        return {name: find_view(model, name).layout for name in self}

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The planned parameters of the model themselves, in the plan's order.

        Raises:
            PlanError: the plan does not fit the model.
        """
        self.check(model)
        return {name: find_view(model, name).weight for name in self}

    def masks(
        self,
        weights: Weights | nn.Module,
        scores: Weights | None = None,
        layouts: Mapping[str, Layout] | None = None,
    ) -> dict[str, Tensor]:
        """The weights to keep, by name: bool, on the device of each weight.

        Args:
            weights: the model, or name -> weight with at least the planned names.
            scores: name -> score of the weight's shape, larger is better, summed over groups; default squared weights.
            layouts: `plan.layouts(model)`; needed where tensors are given and hold parts or convolution groups.

        Raises:
            PlanError: a planned name is missing, a shape is wrong, or a score is NaN.
        """
        if isinstance(weights, nn.Module):
            layouts = self.layouts(weights)
            weights = self.weights(weights)
        return network_masks(self, weights, scores, layouts or {})

    def project(self, weights: Weights, layouts: Mapping[str, Layout] | None = None) -> dict[str, Tensor]:
        """The nearest weights that obey the plan: new, detached tensors for the planned names; others are left out.

        Raises:
            PlanError: see `masks`.
        """
        masks = self.masks(weights, layouts=layouts)
        ties = self.ties(weights, masks, layouts)
        return {
            name: ties[name].nearest(weights[name]) if name in ties else weights[name].detach().masked_fill(~mask, 0)
            for name, mask in masks.items()
        }

    def ties(self, weights: Weights, masks: Weights, layouts: Mapping[str, Layout] | None = None) -> dict[str, Ties]:
        """How the weights that masks keep are bound to each other, for those whose pattern constrains values.

        Args:
            weights, layouts: as for `masks`.
            masks: what `masks` returned, or fewer weights kept.
        """
        found = {
            name: entry.pattern.ties(weights[name], masks[name], (layouts or {}).get(name, PLAIN))
            for name, entry in self.items()
        }
        return {name: ties for name, ties in found.items() if ties is not None}

    def partway(self, way: float) -> Plan:
        """The same patterns at densities that are `way`, from 0 to 1, of the way from dense to this plan."""
        if way == 1:  # to the last bit
            return self
        return Plan({name: Entry(e.pattern, e.pattern.partway(e.density, way)) for name, e in self.items()})

    # ---- checking ---------------------------------------------------------------------------------------------------

    def check(self, model: nn.Module) -> None:
        """Refuse a plan that does not fit the model.

        Raises:
            PlanError: with every unknown name, unsupported module, shape that makes no sense and parameter named twice.
        """
        problems: list[str] = []
        owners: dict[int, str] = {}
        for name, entry in self.items():
            view = _view_or_problem(model, name)
            if isinstance(view, str):
                problems.append(f"{name}: {view}")
                continue
            first = owners.setdefault(id(view.weight), name)
            if first != name:
                problems.append(f"{name}: the same parameter as {first}; a shared parameter has one entry")
            if reason := entry.pattern.refusal(entry.density, view.weight.shape, view.layout):
                problems.append(f"{name} {list(view.weight.shape)}: {reason}")
        if problems:
            raise PlanError(problems)

    def verify(self, model: nn.Module) -> PlanReport:
        """Read the holes off the model's weights and compare them with the plan. The model is not changed.

        Raises:
            PlanError: the plan does not fit the model.
        """
        self.check(model)
        rows = {row.name: row for pool in pools(self) for row in self._verified(model, pool)}
        return PlanReport(tuple(rows[name] for name in self), sum(p.numel() for p in model.parameters()))

    def _verified(self, model: nn.Module, pool: Sequence[str]) -> Iterator[WeightReport]:
        entry = self[pool[0]]
        views = {name: find_view(model, name) for name in pool}
        alive = {name: entry.pattern.alive(view) for name, view in views.items()}
        if entry.pattern.scope == "network":
            holds = entry.pattern.hold_together([*views.values()], entry.density)
        else:
            holds = entry.pattern.holds(views[pool[0]], entry.density)
        for name, view in views.items():
            yield WeightReport(
                name=name,
                shape=tuple(view.weight.shape),
                pattern=str(entry.pattern),
                asked=entry.density,
                achieved=int(alive[name].sum()) / alive[name].numel(),
                nonzero=int(view.weight.count_nonzero()),
                size=view.weight.numel(),
                holds=holds,
            )

    # ---- files ------------------------------------------------------------------------------------------------------

    def to_yaml(self) -> str:
        """The plan as YAML text, which `from_yaml` turns back into an equal plan."""
        return plan_file.dump({name: (str(entry.pattern), entry.density) for name, entry in self.items()})

    @classmethod
    def from_yaml(cls, text: str) -> Plan:
        """A plan from YAML text.

        Raises:
            PlanError: the text is not YAML or not a plan; with everything that is wrong.
        """
        return cls(plan_file.parse(text))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a YAML file, whole or not at all."""
        write_atomically(path, self.to_yaml().encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan from a YAML file.

        Raises:
            FileNotFoundError: there is no such file.
            PlanError: see `from_yaml`.
        """
        try:
            return cls.from_yaml(Path(path).read_text(encoding="utf-8"))
        except (PlanError, UnicodeDecodeError) as error:
            problems = error.problems if isinstance(error, PlanError) else [str(error)]
            raise PlanError(f"{path}: {problem}" for problem in problems) from error


def _view_or_problem(model: nn.Module, name: str) -> WeightView | str:
    try:
        return find_view(model, name)
    except ViewError as error:
        return str(error)
