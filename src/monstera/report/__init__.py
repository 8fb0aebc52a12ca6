"""Tables of results, for the terminal and for the README, made from plain result files."""

from monstera.report.readme import results_block, rewrite, with_results
from monstera.report.studies import limits, study_tables
from monstera.report.tables import (
    Table,
    circumstances,
    columns,
    comparison_table,
    fastest_dense_guest,
    heading,
    markdown,
    milliseconds,
)
from monstera.report.terminal import terminal

__all__ = [
    "Table",
    "circumstances",
    "columns",
    "comparison_table",
    "fastest_dense_guest",
    "heading",
    "limits",
    "markdown",
    "milliseconds",
    "results_block",
    "rewrite",
    "study_tables",
    "terminal",
    "with_results",
]
