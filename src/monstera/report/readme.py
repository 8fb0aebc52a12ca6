"""Writes the results into the docs: the summary between two marks of the README, all tables and figures beside it."""

from __future__ import annotations

import os
from pathlib import Path

from monstera.report.comparison import PAGE as COMPARISON
from monstera.report.comparison import comparison_page
from monstera.report.figures import figures
from monstera.report.models import MODELS, models_page
from monstera.report.page import PAGE, results_page
from monstera.report.recipes import recipe_table
from monstera.report.sources import Results, read_results
from monstera.report.summary import summary_tables
from monstera.report.tables import Table, markdown
from monstera.sparsity.files import write_atomically

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
FIGURES = "docs/figures"


def results_block(results: Results) -> str:
    """Return the Markdown of the README: a summary for each number of threads and instruction set, and the recipes.

    Raises:
        ValueError: a recipe's result is damaged.
    """
    tables = summary_tables(results.comparisons.values())
    recipes = recipe_table(results.recipes)
    parts = [_titled(table) for table in (*tables, *([recipes] if recipes.lines else []))]
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


def documents(readme: Path) -> dict[Path, bytes]:
    """Return what the files made from results should hold: the README, the pages of tables, every figure.

    Raises:
        ValueError: the marks are missing, a result file is damaged, or matplotlib is not installed.
    """
    root = readme.resolve().parent
    results = read_results(root)
    drawn = figures(results)
    text = with_results(readme.read_text(encoding="utf-8"), results_block(results))
    pages = {readme: text, root / PAGE: results_page(results, drawn)}
    if models := models_page(results):
        pages[root / MODELS] = models
    if compared := comparison_page(results):
        pages[root / COMPARISON] = compared
    return {path: page.encode() for path, page in pages.items()} | {
        root / FIGURES / name: data for name, data in drawn.items()
    }


def rewrite(path: str | os.PathLike[str]) -> list[Path]:
    """Bring the README at `path`, and what is made beside it, up to date; return the files that changed.

    Figures that no result stands behind any more are deleted.

    Raises:
        ValueError: as for `documents`.
    """
    readme = Path(path)
    wanted = documents(readme)
    changed = [file for file, data in wanted.items() if not file.exists() or file.read_bytes() != data]
    for file in changed:
        write_atomically(file, wanted[file])
    stale = sorted(set((readme.resolve().parent / FIGURES).glob("*.svg")) - wanted.keys())
    for file in stale:
        file.unlink()
    return changed + stale


def _titled(table: Table) -> str:
    return f"**{table.title}**\n\n{markdown(table)}"
