"""Recipes from YAML, refused with the name of every field that is wrong."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from monstera.recipe.errors import RecipeError
from monstera.recipe.schema import Recipe

# What may differ between a run and its resumption, or changes nothing about the weights.
_FREE = {"output", "seeds", "latency", "checkpoint_every", "divergence_every", "threads"}


def read_recipe(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe; `overrides` replaces fields, nested ones by dotted names such as `data.held_out`.

    Raises:
        FileNotFoundError: there is no such file.
        RecipeError: it is not YAML, or fields are missing, unknown or out of bounds; all of them are named.
    """
    where = os.fspath(path)
    try:
        fields = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(where, [f"not readable as YAML: {error}"]) from None
    if not isinstance(fields, dict):
        raise RecipeError(where, [f"expected fields such as 'network: ...', got {type(fields).__name__}"])
    for name, value in (overrides or {}).items():
        _replace(fields, name, value)
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        raise RecipeError(where, [_problem(detail) for detail in error.errors()]) from None


def fingerprint(recipe: Recipe) -> str:
    """Name everything that decides the trained weights, but the seed: 16 hexadecimal digits."""
    fields = recipe.model_dump(mode="json", exclude=_FREE)
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _replace(fields: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        inner = fields.get(section)
        fields[section] = dict(inner) if isinstance(inner, dict) else {}
        fields = fields[section]
    fields[last] = value


def _problem(detail: Any) -> str:
    field = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        message = "is missing"
    elif detail["type"] == "extra_forbidden":
        message = "is not a field of a recipe"
    elif not isinstance(detail["input"], dict | list):
        message = f"{message}, got {detail['input']!r}"
    return f"{field}: {message}" if field else message
