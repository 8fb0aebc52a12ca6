"""Costs of a network, and tables of costs, for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from monstera.search.costs.law import fit_law
from monstera.search.costs.network import LayerCosts, NetworkCosts
from monstera.search.costs.table import CostTable, CostTableError

# Densities at which curves are shown.
_SHOWN = (0.5, 0.25, 0.1)


def costs_shown(costs: NetworkCosts) -> Group:
    """A line for each layer: dense milliseconds, and those of every measured pattern at some densities."""
    table = frameless(f"Cost of layers, ms a call on {costs.machine.cpu}, {_where(costs)}", "layer")
    table.add_column("pattern", no_wrap=True)
    for column in ("dense", *(f"at {d:g}" for d in _SHOWN)):
        table.add_column(column, justify="right")
    for name, layer in costs.layers.items():
        _add_lines(table, name, layer)
    table.add_row("the rest", "", _ms(costs.rest_ms, costs.rest_measured))
    table.add_section()
    measured = costs.rest_measured and all(layer.is_measured for layer in costs.layers.values())
    table.add_row("whole network", "", _ms(costs.dense_ms, measured))
    law = f"What was not measured is predicted: {costs.law.quality}." if costs.law else "Too little for predictions."
    return Group(table, Text(law))


def table_shown(table: CostTable) -> Group:
    """What a table holds, of which machine, and how well it predicts what it lacks."""
    machine = table.machine
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    facts.add_row("machine", machine.cpu)
    facts.add_row("target", machine.target)
    facts.add_row("compiler", machine.compiler)
    facts.add_row("kernels", machine.kernels)
    facts.add_row("layers", f"{len(table.layers)}; times: {table.points}")
    facts.add_row("networks", str(len(table.rests)))
    facts.add_row("patterns", ", ".join(_patterns(table)) or "none")
    counts = sorted({record.signature.threads for record in table.layers.values()})
    return Group(facts, *(Text(_prediction(table, threads)) for threads in counts))


def frameless(title: str, names: str) -> Table:
    """A table without frames, so that names of layers, its first column, stand whole on 80 columns."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(names, no_wrap=True)
    return table


def _add_lines(table: Table, name: str, layer: LayerCosts) -> None:
    dense = _ms(layer.dense_ms, layer.is_measured)
    if not layer.curves:
        table.add_row(name, "", dense)
    for i, (pattern, curve) in enumerate(layer.curves.items()):
        shown = (f"{curve.at(density):.3f}" for density in _SHOWN)
        table.add_row("" if i else name, pattern, "" if i else dense, *shown)


def _ms(ms: float, measured: bool) -> str:
    return f"{ms:.3f}" if measured else f"about {ms:.3f}"


def _where(costs: NetworkCosts) -> str:
    return f"{costs.machine.target}, {_threads(costs.threads)}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _patterns(table: CostTable) -> list[str]:
    return sorted({point.pattern for record in table.layers.values() for point in record.points} - {""})


def _prediction(table: CostTable, threads: int) -> str:
    try:
        return f"What it lacks on {_threads(threads)} is predicted: {fit_law(table, threads).quality}."
    except CostTableError as error:
        return f"What it lacks on {_threads(threads)} cannot be predicted: {error}."
