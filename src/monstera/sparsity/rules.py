"""Which weights of a model are meant: by role, by name glob, by module type, by module object."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn

from monstera.sparsity.errors import PlanError, ViewError, suggestion
from monstera.sparsity.view import find_view, layouts_of, weight_views

Uses: TypeAlias = dict[str, list[nn.Module]]
Rule: TypeAlias = str | type[nn.Module] | nn.Module

SKIPPED = ("first_conv", "depthwise", "last_linear")

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def candidates(model: nn.Module, skip: Collection[str]) -> list[str]:
    """The weights that a uniform plan prunes: all but embedding tables and those that `skip` names.

    Raises:
        PlanError: `skip` names what is not there, a weight that is left is computed from others, or none is left.
    """
    if isinstance(skip, str):
        raise PlanError([f"skip is a collection of roles and globs, got the text {skip!r}; write ({skip!r},)"])
    uses = _uses(model)
    skipped, problems = _skipped(model, uses, skip)
    names = [
        name
        for name, modules in uses.items()
        if name not in skipped and not all(isinstance(m, nn.Embedding) for m in modules)
    ]
    problems += [f"{name}: {problem}" for name in names if (problem := _refusal(model, name))]
    if not names and not problems:
        problems.append(f"no weight is left to prune; skip={tuple(skip)!r} covers all of {list(uses)}")
    if problems:
        raise PlanError(problems)
    return names


def weights_by_role(model: nn.Module) -> dict[str, set[str]]:
    """The weights of every role in `SKIPPED`, by the names that plans have for them; a role may have none."""
    return _roles(model, _uses(model))


def matched(model: nn.Module, rules: Collection[Rule]) -> list[list[str]]:
    """For every rule the weights it means, in registration order.

    Raises:
        PlanError: with every rule that matches nothing.
    """
    names = list(_uses(model))
    found = [_matches(model, rule, names) for rule in rules]
    if problems := [
        f"{_shown(rule)} matches no weight; {suggestion(str(rule), names)}"
        for rule, hits in zip(rules, found, strict=True)
        if not hits
    ]:
        raise PlanError(problems)
    return found


def _uses(model: nn.Module) -> Uses:
    """Every weight by the first of its names, with all modules that use it, computed weights included."""
    names = {id(view.weight): name for name, view in weight_views(model).items()}
    uses: Uses = {}
    for path, module in model.named_modules():
        for parameter in layouts_of(module) or ():
            own = f"{path}.{parameter}" if path else parameter
            leaf = module._parameters.get(parameter)
            uses.setdefault(own if leaf is None else names.get(id(leaf), own), []).append(module)
    return uses


def _skipped(model: nn.Module, uses: Uses, skip: Iterable[str]) -> tuple[set[str], list[str]]:
    roles = _roles(model, uses)
    skipped: set[str] = set()
    problems: list[str] = []
    for item in skip:
        if item in roles:
            skipped |= roles[item]
            continue
        hits = _matches(model, item, list(uses))
        skipped.update(hits)
        if not hits:
            problems.append(
                f"skip={item!r} matches no weight and is no role ({', '.join(roles)}); {suggestion(item, uses)}"
            )
    return skipped, problems


def _roles(model: nn.Module, uses: Uses) -> dict[str, set[str]]:
    return {
        "first_conv": _first_convolution(uses),
        "depthwise": _depthwise(uses),
        "last_linear": _last_linear(model, uses),
    }


def _first_convolution(uses: Uses) -> set[str]:
    return set([n for n, modules in uses.items() if any(isinstance(m, _CONVOLUTIONS) for m in modules)][:1])


def _depthwise(uses: Uses) -> set[str]:
    return {
        name
        for name, modules in uses.items()
        if any(isinstance(m, _CONVOLUTIONS) and m.groups == m.in_channels > 1 for m in modules)
    }


def _last_linear(model: nn.Module, uses: Uses) -> set[str]:
    last = next((m for m in reversed(list(model.modules())) if isinstance(m, nn.Linear)), None)
    return {name for name, modules in uses.items() if any(m is last for m in modules)}


def _matches(model: nn.Module, rule: Rule, names: list[str]) -> list[str]:
    if isinstance(rule, str):
        return [n for n in names if fnmatchcase(n, rule) or fnmatchcase(n.rpartition(".")[0], rule)]
    roots = [rule] if isinstance(rule, nn.Module) else [m for m in model.modules() if isinstance(m, rule)]
    inside = {id(m) for root in roots for m in root.modules()}
    return [name for name, modules in _uses(model).items() if any(id(m) in inside for m in modules)]


def _shown(rule: Rule) -> str:
    if isinstance(rule, str):
        return f"the glob {rule!r}"
    return f"the type {rule.__name__}" if isinstance(rule, type) else f"the {type(rule).__name__} object"


def _refusal(model: nn.Module, name: str) -> str:
    try:
        find_view(model, name)
    except ViewError as error:
        return str(error)
    return ""
