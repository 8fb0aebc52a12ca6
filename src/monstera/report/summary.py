"""The table that says it all: every network in one line, how many times faster than the best of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from monstera.measure import INSTRUCTIONS, MONSTERA, Comparison, Row, fastest, ratio
from monstera.report.tables import Table, fastest_dense_guest, milliseconds, openvino_default, threads_of


def summary_tables(comparisons: Iterable[Comparison]) -> list[Table]:
    """Return a summary for each number of threads and instruction set: a line tells which peers can use what."""
    return [summary_table(chosen, title) for title, chosen in by_machine(comparisons).items()]


def by_machine(comparisons: Iterable[Comparison]) -> dict[str, list[Comparison]]:
    """Comparisons by number of threads and instruction set, in words: threads first, the widest vectors first."""
    widest = {name: place for place, name in enumerate(INSTRUCTIONS.values())}
    found: dict[tuple[int, str], list[Comparison]] = {}
    for c in comparisons:
        found.setdefault((c.threads, c.machine.instructions), []).append(c)
    order = sorted(found, key=lambda kind: (kind[0], widest.get(kind[1], len(widest)), kind[1]))
    return {f"{threads_of(threads)}, {name}": found[threads, name] for threads, name in order}


def summary_table(chosen: Sequence[Comparison], title: str) -> Table:
    """Return one line for each comparison, and one column for each kind of weights.

    Kinds that one network alone was measured with share a last column, in which they are named. A cell says how many
    times faster than the fastest dense fp32 guest Monstera is with these weights, and which part of the FMA peak went
    into weights that survive. The last column is our fastest row against OpenVINO's default.
    """
    kinds = Counter(row.weights for c in chosen for row in _ours(c))
    weights = [kind for kind, networks in kinds.items() if networks > 1 or len(chosen) == 1]
    free, rare = any(openvino_default(c) for c in chosen), len(weights) < len(kinds)
    named = ("network", "fastest dense guest", "ms", *weights, *(["others"] if rare else []))
    columns = (*named, "fastest, against openvino default") if free else named
    return Table(title, columns, tuple(_line(c, weights, free, rare) for c in chosen))


def _line(comparison: Comparison, weights: list[str], free: bool, rare: bool) -> tuple[str, ...]:
    guest = fastest_dense_guest(comparison)
    ours = {row.weights: row for row in _ours(comparison)}
    size = ", ".join("x".join(map(str, shape)) for shape in comparison.inputs)
    return (
        f"{comparison.network} {size}",
        guest.engine if guest else "",
        milliseconds(guest.timing.median_ms) if guest and guest.timing else "",
        *(_cell(comparison, guest, ours.get(kind)) for kind in weights),
        *([_others(comparison, guest, [row for kind, row in ours.items() if kind not in weights])] if rare else []),
        *([_against_default(comparison)] if free else []),
    )


def _others(comparison: Comparison, guest: Row | None, rows: Iterable[Row]) -> str:
    return "; ".join(f"{row.weights}: {_cell(comparison, guest, row)}" for row in rows)


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
