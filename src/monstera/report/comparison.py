"""The page that compares the methods of pruning: studies' results by density, and what was tried for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monstera.measure import MONSTERA, from_json, in_format, read_json
from monstera.report.recipes import pattern_names
from monstera.report.sources import Results
from monstera.report.tables import Table, markdown, milliseconds

PAGE = "docs/methods/comparison.md"
RECIPE, CHOSEN = "monstera.recipe.1", "monstera.chosen.1"
_COLUMNS = (
    "variant",
    "holes",
    "of all parameters",
    "seeds",
    "accuracy",
    "lowest to highest",
    "against dense",
    "KiB",
    "of dense",
    "ms",
)

_INTRODUCTION = """# Methods compared

Made by `make results` from the files that `monstera study` left beside each study; every number comes from one of them.

*accuracy* is that of the last epoch on the test pictures, the mean over seeds ± their standard deviation; a row of one
seed has no spread, and differences of the size of others' spread mean nothing there. *against dense* is in points, to
the network that all variants start from. *holes*: the pattern of planned weights; *of all parameters*: what is left of
them. *KiB* is what the first seed's parameters take in the smallest storage form, named behind it, with indices and
signs and all that stays dense; *of dense* is the part of the network without holes. *ms*: the compiled network, one
picture and one thread, where it was measured. Rows are in the order of their accuracy.
"""


def comparison_page(results: Results) -> str | None:
    """Return the Markdown of the page; None where no study has results.

    Raises:
        ValueError: a result or a file of chosen values is damaged; the message names it.
    """
    studies = [_study(results.root, folder) for folder in results.study_folders]
    return "\n".join([_INTRODUCTION, *studies]) if studies else None


def _study(root: Path, folder: Path) -> str:
    found = [_read(path, RECIPE) for path in sorted((folder / "results").glob("*.json"))]
    name = folder.relative_to(root).as_posix()
    parts = [f"## {folder.name}\n", _circumstances(found, name)]
    for title, rows in _groups(found):
        rows.sort(key=lambda result: -result["accuracy"]["sparse_mean"])
        table = Table("", _COLUMNS, tuple(_line(result) for result in rows))
        parts.append(f"**{title}**\n\n{markdown(table)}")
    chosen = folder / "chosen.json"
    if chosen.is_file():
        parts.append(_tries(_read(chosen, CHOSEN)))
    return "\n".join(parts)


def _groups(found: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Results of a density under its name; plans of files have densities of their own, whatever their cell's is."""
    filed = [result for result in found if "file" in result["recipe"]["plan"]]
    plain = [result for result in found if result not in filed]
    for density in sorted({result["cell"]["density"] for result in plain}, reverse=True):
        yield f"Density {density:g}", [result for result in plain if result["cell"]["density"] == density]
    if filed:
        yield "Plans of files", filed


def _read(path: Path, form: str) -> dict[str, Any]:
    content = read_json(path, lambda data: in_format(data, form, dict))
    if form == RECIPE and "cell" not in content:
        raise ValueError(f"{path}: the result of a recipe that is no part of a study")
    return content


def _circumstances(found: Sequence[Mapping[str, Any]], name: str) -> str:
    recipes = [result["recipe"] for result in found]
    told = [
        {f"{recipe['network']['name']} on {recipe['data']['name']}" for recipe in recipes},
        {f"{recipe['epochs']} epochs" for recipe in recipes},
        {result["accuracy"]["tested_on"] for result in found},
        {seed.get("training_gpu", result["machine"]["cpu"]) for result in found for seed in result["seeds"]},
        {f"torch {result['machine']['packages']['torch']}" for result in found},
        # What was trained elsewhere may have been timed here.
        {f"ms on {result['latency']['machine']['cpu']}" for result in found if result["latency"]},
    ]
    return "; ".join(" or ".join(sorted(values)) for values in told if values) + f". Source: [`{name}`](../../{name})\n"


def _line(result: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy, seeds = result["accuracy"], len(result["seeds"])
    spread = "" if accuracy["sparse_std"] is None else f" ± {100 * accuracy['sparse_std']:.2f}"
    dense = accuracy["dense"]
    return (
        result["cell"]["variant"],
        pattern_names(result) if result["cell"]["density"] < 1 else "",
        f"{result['density']['all_parameters']:.3f}",
        str(seeds),
        f"{accuracy['sparse_mean']:.2%}{spread}",
        f"{accuracy['sparse_min']:.2%} to {accuracy['sparse_max']:.2%}" if seeds > 1 else "",
        "" if dense is None else f"{100 * (accuracy['sparse_mean'] - dense):+.2f}",
        *_size(result["storage"]),
        _milliseconds(result),
    )


def _size(storage: Mapping[str, Any]) -> tuple[str, str]:
    sizes = {form: parts["values"] + parts["index"] for form, parts in storage["forms"].items()}
    form = min(sizes, key=lambda name: sizes[name])
    total = sizes[form] + storage["rest"]
    return f"{total / 1024:.1f} ({form})", f"{total / storage['dense']:.3f}"


def _milliseconds(result: Mapping[str, Any]) -> str:
    if result["latency"] is None:
        return ""
    rows = [row for row in from_json(result["latency"]).rows if row.engine == MONSTERA.name and row.weights != "dense"]
    return next((milliseconds(row.timing.median_ms) for row in rows if row.timing), "")


def _tries(chosen: Mapping[str, Any]) -> str:
    """What was tried, on which pictures, and in bold what was chosen."""
    trials = ", ".join(f"{field} = {value}" for field, value in chosen["trials"].items())
    lines = [(name, f"`{entry['field']}`", *_tried(entry)) for name, entry in sorted(chosen["values"].items())]
    width = max((len(line) for line in lines), default=2)
    columns = ("variant and density", "field", *(f"try {index + 1}" for index in range(width - 2)))
    table = Table("", columns, tuple(line + ("",) * (width - len(line)) for line in lines))
    return (
        f"**Values chosen** by one trial each on training pictures that were held out ({trials})\n\n{markdown(table)}"
    )


def _tried(entry: Mapping[str, Any]) -> Iterator[str]:
    for one in entry["tries"]:
        text = f"{one['value']}: " + ("diverged" if one["accuracy"] is None else f"{one['accuracy']:.2%}")
        yield f"**{text}**" if one["value"] == entry["value"] else text
