"""Finds the fastest way to run each layer by timing it: what to try, trials, and a table of what was found."""

from monstera.compiler.tuning.search import EFFORTS, Effort, tune_layers
from monstera.compiler.tuning.table import Table, TableError, read_tuning, table_of, write_tuning

__all__ = ["EFFORTS", "Effort", "Table", "TableError", "read_tuning", "table_of", "tune_layers", "write_tuning"]
