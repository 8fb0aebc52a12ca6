"""Finds the committed result files and tells them apart by their format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monstera.measure import Comparison, Study, from_json, read_json, study_from_json
from monstera.measure.result import FORMAT as COMPARISON
from monstera.measure.study import FORMAT as STUDY
from monstera.search import Pareto, read_pareto
from monstera.search.costs.trials import FORMAT as PREDICTION
from monstera.search.costs.trials import Trials, trials_from_json


@dataclass(frozen=True, slots=True)
class Results:
    """What lies under benchmarks/results, recipes/results and recipes/*/* of `root`, in the order of the names.

    `study_folders` are those of studies of recipes that have results.
    """

    root: Path
    comparisons: dict[Path, Comparison]
    studies: dict[Path, Study]
    recipes: tuple[Path, ...]
    study_folders: tuple[Path, ...] = ()
    predictions: Mapping[Path, Trials] = field(default_factory=dict)
    searches: Mapping[Path, Pareto] = field(default_factory=dict)

    def studied(self, name: str) -> dict[Path, Study]:
        """Return the studies of one script."""
        return {path: study for path, study in self.studies.items() if study.name == name}


def read_results(root: Path) -> Results:
    """Read every result file below `root`; those of recipes are left to be read by who shows them.

    Raises:
        ValueError: a file is damaged, or of a format that nobody here knows; the message names it.
    """
    comparisons: dict[Path, Comparison] = {}
    studies: dict[Path, Study] = {}
    predictions: dict[Path, Trials] = {}
    for path in sorted((root / "benchmarks" / "results").glob("*.json")):
        result = read_json(path, _known)
        if isinstance(result, Comparison):
            comparisons[path] = result
        elif isinstance(result, Trials):
            predictions[path] = result
        else:
            studies[path] = result
    recipes = tuple(sorted((root / "recipes" / "results").glob("*.json")))
    folders = sorted({path.parent.parent for path in (root / "recipes").glob("*/results/*.json")})
    folders = [folder for folder in folders if (folder / "study.yaml").is_file()]
    searches = {path: read_pareto(path) for path in sorted((root / "recipes").glob("*/*/*.pareto.json"))}
    return Results(root, comparisons, studies, recipes, tuple(folders), predictions, searches)


def _known(data: Any) -> Comparison | Study | Trials:
    form = data.get("format") if isinstance(data, dict) else None
    if form == COMPARISON:
        return from_json(data)
    if form == STUDY:
        return study_from_json(data)
    if form == PREDICTION:
        return trials_from_json(data)
    raise ValueError(f"expected a result of format {COMPARISON!r}, {STUDY!r} or {PREDICTION!r}, got {form!r}")
