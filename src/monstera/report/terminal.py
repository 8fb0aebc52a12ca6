"""Shows tables on a terminal."""

from __future__ import annotations

import rich.table
from rich.text import Text

from monstera.report.tables import Table


def terminal(table: Table) -> rich.table.Table:
    """Return `table` for rich: names to the left, figures to the right, strong lines bold."""
    shown = rich.table.Table(title=table.title, title_justify="left", title_style="bold")
    for index, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if index < 2 else "right", no_wrap=index < 2)
    for index, line in enumerate(table.lines):
        shown.add_row(*map(Text, line), style="bold green" if index in table.strong else "")
    return shown
