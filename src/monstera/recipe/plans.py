"""The plan of a recipe: one rule for all weights, rules by glob, or a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import nn

from monstera.recipe.schema import GlobRule, PlanFile, PlanRule, PlanRules
from monstera.sparsity import Entry, PatternError, Plan, PlanError, pattern
from monstera.sparsity.rules import Rule

T = TypeVar("T")


def make_plan(how: PlanRule | PlanRules | PlanFile, model: nn.Module, folder: Path) -> Plan:
    """Read and check the plan against the model; a plan file lies in `folder`, if its path is not absolute.

    Raises:
        PlanError: it does not fit the model; every problem begins with its field.
    """
    if isinstance(how, PlanFile):
        return _named("plan.file", lambda: _from_file(folder / how.file, model))
    if isinstance(how, PlanRules):
        return _by_rules(how.rules, model)
    holes = _named("plan.pattern", lambda: pattern(how.pattern))
    _named("plan.density", lambda: holes.density(how.density))
    return _named("plan", lambda: Plan.uniform(model, holes, how.density, skip=how.skip))


def holes_in_words(how: PlanRule | PlanRules | PlanFile, plan: Plan) -> str:
    """Name the holes in a few words, as the lines of tables do."""
    if isinstance(how, PlanRule):
        return how.pattern if how.density is None else f"{how.pattern}, density {how.density:g}"
    return "/".join(dict.fromkeys(str(entry.pattern) for entry in plan.values())) + " by plan"


def _from_file(path: Path, model: nn.Module) -> Plan:
    plan = Plan.load(path)
    plan.check(model)
    if not plan:
        raise PlanError([f"{path}: the plan names no weight"])
    return plan


def _by_rules(rules: tuple[GlobRule, ...], model: nn.Module) -> Plan:
    problems: list[str] = []
    meant: dict[Rule, Entry | None] = {}
    for place, rule in enumerate(rules):
        try:
            Plan.of(model, {rule.weights: None})
            # A glob that comes again stands where it came last, as later rules win.
            meant.pop(rule.weights, None)
            meant[rule.weights] = None if rule.pattern is None else Entry(rule.pattern, rule.density)
        except (PatternError, PlanError) as error:
            problems += _told(f"plan.rules.{place}", error)
    if problems:
        raise PlanError(problems)
    plan = _named("plan.rules", lambda: Plan.of(model, meant))
    if not plan:
        raise PlanError(["plan.rules: they leave every weight dense"])
    return plan


def _named(field: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except (ValueError, OSError) as error:
        raise PlanError(_told(field, error)) from error


def _told(field: str, error: Exception) -> list[str]:
    return [f"{field}: {problem}" for problem in (error.problems if isinstance(error, PlanError) else (str(error),))]
