"""The table of recipes: accuracy before and after, and what the holes buy, from the result files they leave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monstera.measure import MONSTERA, Comparison, from_json, in_format, ratio, read_json
from monstera.report.tables import Table, fastest_dense_guest, milliseconds

FORMAT = "monstera.recipe.1"
_COLUMNS = (
    "recipe",
    "holes",
    "density of planned weights",
    "of all",
    "seeds",
    "accuracy dense",
    "sparse",
    "fastest dense guest, ms",
    "Monstera dense, ms",
    "sparse, ms",
    "faster than the guest",
)


def recipe_table(paths: Iterable[Path]) -> Table:
    """Return one line a result file in `paths`.

    Raises:
        ValueError: a file is damaged or is not the result of a recipe; the message names it.
    """
    lines = (read_json(path, lambda data: in_format(data, FORMAT, _line)) for path in paths)
    return Table("Recipes: real data, trained weights", _COLUMNS, tuple(lines))


def _line(result: Mapping[str, Any]) -> tuple[str, ...]:
    return (*_trained(result), *_timed(result["latency"] and from_json(result["latency"])))


def _trained(result: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy, density = result["accuracy"], result["density"]
    spread = "" if accuracy["sparse_std"] is None else f" ± {accuracy['sparse_std']:.2%}"
    return (
        result["name"],
        pattern_names(result),
        f"{density['planned_weights']:.3f}",
        f"{density['all_parameters']:.3f}",
        str(len(result["seeds"])),
        "" if accuracy["dense"] is None else f"{accuracy['dense']:.2%}",
        f"{accuracy['sparse_mean']:.2%}{spread}",
    )


def pattern_names(result: Mapping[str, Any]) -> str:
    """Return the pattern that a recipe's result was asked for, or each pattern of its plan once."""
    asked = result["recipe"]["plan"]
    if "pattern" in asked:
        return asked["pattern"]
    return "/".join(dict.fromkeys(entry.partition(" at density ")[0] for entry in result["plan"].values()))


def _timed(comparison: Comparison | None) -> tuple[str, ...]:
    if comparison is None:
        return "not measured", "", "", ""
    guest = fastest_dense_guest(comparison)
    ours = [row for row in comparison.rows if row.engine == MONSTERA.name]
    dense = next((row.timing for row in ours if row.weights == "dense"), None)
    sparse = next((row.timing for row in ours if row.weights != "dense"), None)
    return (
        f"{milliseconds(guest.timing.median_ms)} ({guest.engine})" if guest and guest.timing else "",
        milliseconds(dense.median_ms) if dense else "",
        milliseconds(sparse.median_ms) if sparse else "",
        f"{ratio(guest.timing, sparse):.2f}x" if guest and guest.timing and sparse else "",
    )
