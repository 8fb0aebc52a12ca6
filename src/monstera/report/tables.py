"""Turns result files into plain tables of text, for the terminal and for Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monstera.measure import MONSTERA, Comparison, Row, fastest, ratio


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and lines of text; `strong` holds the indices of the lines to set off from the rest."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        uneven = [line for line in self.lines if len(line) != len(self.columns)]
        if uneven:
            raise ValueError(f"expected {len(self.columns)} cells a line, got {len(uneven[0])} in {uneven[0]}")


def comparison_table(comparison: Comparison) -> Table:
    """Return one line a row of `comparison`: time, spread, error, and how it stands to the fastest dense guest.

    A guest is any engine but Monstera. The line of the fastest row is set off. Rows without a time show why.
    """
    best = fastest(comparison.rows)
    guest = fastest_dense_guest(comparison)
    lines = tuple(_line(comparison, row, guest) for row in comparison.rows)
    columns = ("engine", "weights", "MMAC", "ms", "min", "spread", *_against(guest), "of FMA peak", "error")
    strong = frozenset(index for index, row in enumerate(comparison.rows) if row is best)
    return Table(heading(comparison), columns, lines, strong)


def heading(comparison: Comparison) -> str:
    """Return one line that says what was measured: network, input shapes and threads."""
    shapes = ", ".join("x".join(map(str, shape)) for shape in comparison.inputs)
    threads = "1 thread" if comparison.threads == 1 else f"{comparison.threads} threads"
    return f"{comparison.network}, input {shapes}, {threads}"


def fastest_dense_guest(comparison: Comparison) -> Row | None:
    """Return the fastest timed row with dense weights of an engine other than Monstera; None when there is none."""
    return fastest(row for row in comparison.rows if row.engine != MONSTERA.name and row.weights == "dense")


def circumstances(comparison: Comparison) -> str:
    """Return one line that says where and when: processor, its FMA peak in that run, versions, date."""
    machine = comparison.machine
    peak = "" if comparison.peak_gflops is None else f", FMA peak {comparison.peak_gflops:.0f} GFLOP/s"
    versions = ", ".join(f"{name} {version}" for name, version in machine.packages.items() if name != "numpy")
    return f"{machine.cpu} ({', '.join(machine.flags)}){peak}; {versions}; {comparison.date}"


def _against(guest: Row | None) -> tuple[str, ...]:
    return (f"against {guest.engine}",) if guest else ()


def _line(comparison: Comparison, row: Row, guest: Row | None) -> tuple[str, ...]:
    name = row.engine, row.weights, f"{row.macs.surviving / 1e6:.1f}"
    if row.timing is None:
        return (*name, row.note, *[""] * (4 + bool(guest)))
    timing = row.timing
    faster = (f"{ratio(guest.timing, timing):.2f}x",) if guest and guest.timing else ()
    efficiency = comparison.efficiency(row)
    return (
        *name,
        milliseconds(timing.median_ms),
        milliseconds(timing.min_ms),
        f"{timing.spread:.0%}",
        *faster,
        "" if efficiency is None else f"{efficiency:.0%}",
        "" if row.error is None else f"{row.error:.0e}",
    )


def milliseconds(value: float) -> str:
    """Return a time in ms with three significant digits, and never more than three decimals."""
    decimals = max(0, min(3, 2 - _magnitude(value)))
    return f"{value:.{decimals}f}"


def _magnitude(value: float) -> int:
    return int(f"{value:.2e}".partition("e")[2])


def markdown(table: Table) -> str:
    """Return `table` as a Markdown table without its title; strong lines are bold."""
    head = f"| {' | '.join(table.columns)} |\n|{'---|' * len(table.columns)}\n"
    return head + "".join(_markdown_line(line, index in table.strong) for index, line in enumerate(table.lines))


def _markdown_line(cells: Sequence[str], strong: bool) -> str:
    safe = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(f'**{cell}**' if strong and cell else cell for cell in safe)} |\n"
