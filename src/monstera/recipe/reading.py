"""Recipes from YAML, refused with the name of every field that is wrong."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from monstera.recipe.errors import RecipeError
from monstera.recipe.schema import Recipe

Section = TypeVar("Section", bound=BaseModel)

# What may differ between a run and its resumption, or changes nothing about the weights.
_FREE = {"output", "seeds", "latency", "checkpoint_every", "divergence_every", "threads", "device", "compile"}


def read_recipe(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe; `overrides` replaces fields, nested ones by dotted names such as `data.held_out`.

    Raises:
        FileNotFoundError: there is no such file.
        RecipeError: it is not YAML, or fields are missing, unknown or out of bounds; all of them are named.
    """
    return checked(Recipe, replaced(read_fields(path), overrides or {}), os.fspath(path))


def read_fields(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file of fields.

    Raises:
        FileNotFoundError: there is no such file.
        RecipeError: it is not YAML, or something else than fields.
    """
    where = os.fspath(path)
    try:
        fields = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(where, [f"not readable as YAML: {error}"]) from None
    if not isinstance(fields, dict):
        raise RecipeError(where, [f"expected fields such as 'network: ...', got {type(fields).__name__}"])
    return fields


def replaced(fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `fields` with some of them replaced, nested ones by dotted names."""
    copy = dict(fields)
    for name, value in overrides.items():
        _replace(copy, name, value)
    return copy


def checked(kind: type[Section], fields: Mapping[str, Any], where: str) -> Section:
    """Make a recipe or a study of its fields.

    Raises:
        RecipeError: fields are missing, unknown or out of bounds; all of them are named.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        noun = kind.__name__.lower()
        raise RecipeError(where, [_problem(detail, noun) for detail in error.errors()]) from None


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


def _problem(detail: Any, noun: str) -> str:
    # Which form of a field was meant is no field of the file.
    place = [part for part in map(str, detail["loc"]) if not part.startswith("<")]
    if place[:1] == ["method"] or place[:1] == ["optimizer"]:
        del place[1:2]
    field = ".".join(place)
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        message = "is missing"
    elif detail["type"] == "union_tag_not_found" and isinstance(detail["input"], dict):
        field, message = f"{field}.name", "is missing"
    elif detail["type"] == "extra_forbidden":
        message = f"is not a field of a {noun}"
    elif not isinstance(detail["input"], dict | list):
        message = f"{message}, got {detail['input']!r}"
    return f"{field}: {message}" if field else message
