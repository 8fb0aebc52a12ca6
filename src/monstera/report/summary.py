"""The table that says it all: every network in one line, how many times faster than the best of the others."""

from __future__ import annotations

from collections.abc import Iterable

from monstera.measure import MONSTERA, Comparison, Row, fastest, ratio
from monstera.report.tables import Table, fastest_dense_guest, milliseconds, openvino_default, threads_of


def summary_table(comparisons: Iterable[Comparison], threads: int) -> Table:
    """Return one line for each comparison on that many threads, and one column for each kind of weights.

    A cell says how many times faster than the fastest dense fp32 guest Monstera is with these weights, and which part
    of the FMA peak went into weights that survive. The last column is our fastest row against OpenVINO's default.
    """
    chosen = [comparison for comparison in comparisons if comparison.threads == threads]
    weights = list(dict.fromkeys(row.weights for c in chosen for row in _ours(c)))
    free = any(openvino_default(c) for c in chosen)
    named = ("network", "fastest dense guest", "ms", *weights)
    columns = (*named, "fastest, against openvino default") if free else named
    return Table(threads_of(threads), columns, tuple(_line(c, weights, free) for c in chosen))


def _line(comparison: Comparison, weights: list[str], free: bool) -> tuple[str, ...]:
    guest = fastest_dense_guest(comparison)
    ours = {row.weights: row for row in _ours(comparison)}
    size = ", ".join("x".join(map(str, shape)) for shape in comparison.inputs)
    return (
        f"{comparison.network} {size}",
        guest.engine if guest else "",
        milliseconds(guest.timing.median_ms) if guest and guest.timing else "",
        *(_cell(comparison, guest, ours.get(kind)) for kind in weights),
        *([_against_default(comparison)] if free else []),
    )


def _cell(comparison: Comparison, guest: Row | None, row: Row | None) -> str:
    if row is None or row.timing is None:
        return ""
    times = f"{ratio(guest.timing, row.timing):.2f}x" if guest and guest.timing else milliseconds(row.timing.median_ms)
    efficiency = comparison.efficiency(row)
    return times if efficiency is None else f"{times} ({efficiency:.0%})"


def _against_default(comparison: Comparison) -> str:
    default, ours = openvino_default(comparison), fastest(_ours(comparison))
    if default is None or default.timing is None or ours is None or ours.timing is None:
        return ""
    return f"{ratio(default.timing, ours.timing):.2f}x ({default.precision})"


def _ours(comparison: Comparison) -> list[Row]:
    return [row for row in comparison.rows if row.engine == MONSTERA.name]
