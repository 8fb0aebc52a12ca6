"""Values of a study chosen from its trials, and kept in a file beside it with all that was tried."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monstera.measure import in_format, read_json, write_json
from monstera.recipe.result import done, read_result
from monstera.recipe.study import Study, trials

FORMAT = "monstera.chosen.1"


def choose(study: Study, path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[str]]:
    """Choose the value of the best held-out accuracy for each name of `Study.tried_at`, of equal ones the first.

    A value with which training diverged has an accuracy of None, and is chosen only where all did.

    Returns:
        What was written to `chosen_path`, and the names that trials are missing for: nothing is chosen for these.

    Raises:
        ValueError: a result is that of another recipe.
    """
    found: dict[str, dict[str, Any]] = {}
    missing: dict[str, None] = {}
    for cell in trials(study, path):
        name = study.tried_at(cell.variant, cell.density)
        # The dense network alone has no value that is tried.
        for field, value in cell.values.items():
            if not done(cell.recipe):
                missing[name] = None
                continue
            accuracy = read_result(Path(cell.recipe.output))["accuracy"]["sparse_mean"]
            entry = found.setdefault(name, {"field": field, "value": value, "tries": []})
            if all((accuracy or 0) > (one["accuracy"] or 0) for one in entry["tries"]):
                entry["value"] = value
            entry["tries"].append({"value": value, "accuracy": accuracy})
    values = {name: entry for name, entry in found.items() if name not in missing}
    chosen = {"format": FORMAT, "study": study.name, "trials": study.trials, "values": values}
    write_json(chosen, chosen_path(path))
    return chosen, list(missing)


def chosen_path(path: str | os.PathLike[str]) -> Path:
    """Where the chosen values lie: beside the study."""
    return Path(path).with_name("chosen.json")


def read_chosen(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the chosen values of the study at `path`, by the names of `Study.tried_at`; none where there is no file.

    Raises:
        ValueError: the file is damaged.
    """
    place = chosen_path(path)
    if not place.is_file():
        return {}
    return read_json(place, lambda data: in_format(data, FORMAT, _values))


def _values(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry["value"] for key, entry in data["values"].items()}
