"""Tables and figures of results, for the terminal, the README and the docs, made from plain result files."""

from monstera.report.comparison import comparison_page
from monstera.report.figures import figures
from monstera.report.models import models_page
from monstera.report.page import results_page
from monstera.report.planning import planning_table
from monstera.report.readme import documents, results_block, rewrite, with_results
from monstera.report.sources import Results, read_results
from monstera.report.studies import matrix, study_tables
from monstera.report.summary import summary_table, summary_tables
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
    "Results",
    "Table",
    "circumstances",
    "columns",
    "comparison_page",
    "comparison_table",
    "documents",
    "fastest_dense_guest",
    "figures",
    "heading",
    "markdown",
    "matrix",
    "milliseconds",
    "models_page",
    "planning_table",
    "read_results",
    "results_block",
    "results_page",
    "rewrite",
    "study_tables",
    "summary_table",
    "summary_tables",
    "terminal",
    "with_results",
]
