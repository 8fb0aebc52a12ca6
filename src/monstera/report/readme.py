"""Writes the results into a README: everything between two marks is made from the committed result files."""

from __future__ import annotations

import os
from pathlib import Path

from monstera.measure import Comparison, read
from monstera.report.recipes import recipe_table
from monstera.report.tables import circumstances, comparison_table, markdown
from monstera.sparsity.files import write_atomically

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def results_block(root: Path) -> str:
    """Return the Markdown made of benchmarks/results/*.json and recipes/results/*.json below `root`.

    Raises:
        ValueError: a file is damaged or not a result.
    """
    parts = [_section(read(path), path.relative_to(root)) for path in _results(root, "benchmarks")]
    recipes = recipe_table(_results(root, "recipes"))
    if recipes.lines:
        parts.append(f"**{recipes.title}**\n\n{markdown(recipes)}")
    return "\n".join(parts) or "No results are committed yet.\n"


def with_results(text: str, block: str) -> str:
    """Return `text` with `block` in place of what stands between the two marks.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in tail:
        raise ValueError(f"the results go between one {BEGIN} and, after it, one {END}; these marks are not there")
    return f"{head}{BEGIN}\n{block.strip()}\n{END}{tail}"


def rewrite(path: str | os.PathLike[str]) -> bool:
    """Bring the README at `path` up to date with the result files beside it; return whether it changed.

    Raises:
        ValueError: the marks are missing, or a result file is damaged.
    """
    readme = Path(path)
    before = readme.read_text(encoding="utf-8")
    after = with_results(before, results_block(readme.resolve().parent))
    if after == before:
        return False
    write_atomically(readme, after.encode())
    return True


def _results(root: Path, room: str) -> list[Path]:
    return sorted((root / room / "results").glob("*.json"))


def _section(comparison: Comparison, path: Path) -> str:
    table = comparison_table(comparison)
    source = f"[`{path.as_posix()}`]({path.as_posix()})"
    return f"**{table.title}**\n\n{markdown(table)}\n{circumstances(comparison)}. Source: {source}\n"
