"""The YAML form of a plan: a version, then one line a weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from monstera.sparsity.errors import PlanError

_VERSION = 1


def dump(entries: Mapping[str, tuple[str, float]]) -> str:
    """YAML text of name -> (pattern name, density)."""
    weights = {name: {"pattern": pattern, "density": float(density)} for name, (pattern, density) in entries.items()}
    # With default_flow_style=None only the innermost mappings are put on one line: the file reads as a table.
    text = yaml.safe_dump(
        {"version": _VERSION, "weights": weights}, default_flow_style=None, sort_keys=False, width=10**6
    )
    return f"# Monstera plan: the pattern of each weight and the kept fraction of its groups.\n{text}"


def parse(text: str) -> dict[str, tuple[str, float | None]]:
    """The inverse of `dump`; patterns and densities are not looked at yet.

    Raises:
        PlanError: with everything that is wrong.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PlanError([f"not YAML: {error}"]) from error
    if not isinstance(document, dict) or not isinstance(document.get("weights"), dict):
        raise PlanError(["expected `version` and `weights` (parameter name -> pattern and density) at the top level"])
    problems = [f"unknown key {key!r} at the top level" for key in document if key not in ("version", "weights")]
    if document.get("version") != _VERSION:
        problems.append(f"version is {document.get('version')!r}, this library reads {_VERSION}")
    for name, fields in document["weights"].items():
        problems += [f"{name}: {problem}" for problem in _problems(name, fields)]
    if problems:
        raise PlanError(problems)
    return {name: (fields["pattern"], fields.get("density")) for name, fields in document["weights"].items()}


def _problems(name: Any, fields: Any) -> list[str]:
    if not isinstance(name, str):
        return ["the parameter name is not text; put it in quotes"]
    if not isinstance(fields, dict) or "pattern" not in fields:
        return [f"expected {{pattern: ..., density: ...}}, got {fields!r}"]
    problems = [f"unknown key {key!r}; keys: pattern, density" for key in fields if key not in ("pattern", "density")]
    if not isinstance(fields["pattern"], str):
        # YAML 1.1 reads 2:4 as a number in base sixty.
        problems.append(f"pattern {fields['pattern']!r} is not text; write N:M patterns in quotes, '2:4'")
    density = fields.get("density")
    if density is not None and (isinstance(density, bool) or not isinstance(density, (int, float))):
        problems.append(f"density {density!r} is not a number")
    return problems
