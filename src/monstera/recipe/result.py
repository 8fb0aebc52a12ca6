"""The result of a recipe as plain values, and how it is summed up over seeds."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from monstera.measure import in_format, read_json, this_machine, write_json
from monstera.recipe.ingredients import Ingredients
from monstera.recipe.reading import fingerprint
from monstera.recipe.schema import Recipe

FORMAT = "monstera.recipe.1"


def make_result(
    recipe: Recipe, things: Ingredients, dense: float | None, seeds: Sequence[dict[str, Any]], command: str
) -> dict[str, Any]:
    """Put together what the result file says; `dense` is the accuracy of the network that all seeds start from."""
    accuracies = [seed["accuracy"] for seed in seeds]
    return {
        "format": FORMAT,
        "name": recipe.name,
        "command": command,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "accuracy": {
            "tested_on": things.tested_on,
            "epoch": "last",
            "dense": dense,
            "sparse_mean": statistics.fmean(accuracies),
            "sparse_std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
            "sparse_min": min(accuracies),
            "sparse_max": max(accuracies),
        },
        "density": seeds[0]["density"],
        "seeds": list(seeds),
        "plan": {name: str(entry) for name, entry in things.plan.items()},
        "recipe": recipe.model_dump(mode="json"),
        "machine": asdict(this_machine()),
        "latency": None,
    }


def make_diverged(recipe: Recipe, reason: str) -> dict[str, Any]:
    """Put together what the file says of a trial whose training came to no end."""
    return {
        "format": FORMAT,
        "name": recipe.name,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "diverged": reason,
        "accuracy": {"sparse_mean": None},
        "recipe": recipe.model_dump(mode="json"),
        "machine": asdict(this_machine()),
    }


def write_result(result: dict[str, Any], path: Path) -> None:
    """Write the result file, whole or not at all."""
    write_json(result, path)


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a recipe's result.
    """
    return read_json(path, lambda data: in_format(data, FORMAT, dict))


def done(recipe: Recipe) -> bool:
    """Whether the recipe's result is there, with all of its seeds.

    Raises:
        ValueError: there is a result of another recipe of this name.
    """
    output = Path(recipe.output)
    return output.is_file() and refuse_other(read_result(output), recipe).seeds == recipe.seeds


def refuse_other(result: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """Return the recipe that a result at this one's place was made with: the same, but for seeds and the like.

    Raises:
        ValueError: it is the result of another recipe.
    """
    try:
        # Fields that the schema had not yet have their defaults.
        before = Recipe.model_validate(result["recipe"])
    except ValidationError:  # a field is gone since
        before = None
    if before is None or fingerprint(before) != fingerprint(recipe):
        raise ValueError(f"{recipe.output}: the result of another recipe of this name; remove it to run this one")
    return before


def sha256(path: Path) -> str:
    """Checksum of a file, so that a result names its weights."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
