"""Turns result files into plain tables of text, for the terminal and for Markdown alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from monstera.measure import FP32, MONSTERA, OPENVINO_DEFAULT, Comparison, Row, Study, Timing, fastest, ratio

Cell = Callable[[Row], str]


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


def comparison_table(comparison: Comparison, cells: Mapping[str, Cell] | None = None) -> Table:
    """Return one line a row of `comparison`, the fastest set off; a row without a time shows why.

    `cells` are the columns after engine and weights, by title; all those of `columns` if left out.
    """
    cells = columns(comparison) if cells is None else cells
    lines = tuple((row.engine, row.weights, *(cell(row) for cell in cells.values())) for row in comparison.rows)
    best = fastest(comparison.rows)
    strong = frozenset(index for index, row in enumerate(comparison.rows) if row is best)
    return Table(heading(comparison), ("engine", "weights", *cells), lines, strong)


def columns(comparison: Comparison) -> dict[str, Cell]:
    """Return the columns of figures by title: type, work, time, spread, speed against guests, efficiency, error.

    The guests are the fastest engine with dense weights in fp32 that is not Monstera, and OpenVINO as it chooses; the
    second, and the type that engines compute in, are left out where all computed in fp32.
    """
    guest = fastest_dense_guest(comparison)
    rounded = any(row.timing is not None and row.precision != FP32 for row in comparison.rows)
    free = openvino_default(comparison) if rounded else None

    def efficiency(row: Row) -> str:
        value = comparison.efficiency(row)
        return "" if value is None else f"{value:.0%}"

    return {
        **({"computes in": lambda row: row.precision} if rounded else {}),
        "MMAC left": lambda row: f"{row.macs.surviving / 1e6:.1f}",
        "ms": lambda row: milliseconds(row.timing.median_ms) if row.timing else row.note,
        "min": lambda row: milliseconds(row.timing.min_ms) if row.timing else "",
        "spread": lambda row: spread(row.timing) if row.timing else "",
        **({f"against {guest.engine}": lambda row: speed(guest, row)} if guest else {}),
        **({f"against {free.engine}": lambda row: speed(free, row)} if free else {}),
        "of FMA peak": efficiency,
        "error": lambda row: "" if row.error is None else f"{row.error:.0e}",
    }


def spread(timing: Timing) -> str:
    """Return the largest minus the smallest round as text, with the number of rounds that the machine disturbed."""
    return f"{timing.spread:.0%}" + (f" ({timing.disturbed} disturbed)" if timing.disturbed else "")


def speed(guest: Row, row: Row) -> str:
    """Return how many times faster than `guest` the row is, as text; nothing where one of them has no time."""
    return f"{ratio(guest.timing, row.timing):.2f}x" if guest.timing and row.timing else ""


def heading(comparison: Comparison) -> str:
    """Return one line that says what was measured: network, input shapes and threads."""
    shapes = ", ".join("x".join(map(str, shape)) for shape in comparison.inputs)
    return f"{comparison.network}, input {shapes}, {threads_of(comparison.threads)}"


def threads_of(count: int) -> str:
    """Return the number of threads in words."""
    return "1 thread" if count == 1 else f"{count} threads"


def fastest_dense_guest(comparison: Comparison) -> Row | None:
    """Return the fastest timed row with dense weights, in fp32, of an engine other than Monstera; None without one."""
    dense = (row for row in comparison.rows if row.engine != MONSTERA.name and row.weights == "dense")
    return fastest(row for row in dense if row.precision == FP32)


def openvino_default(comparison: Comparison) -> Row | None:
    """Return the timed row of OpenVINO left to choose its type; None when there is none."""
    return fastest(row for row in comparison.rows if row.engine == OPENVINO_DEFAULT.name)


def circumstances(result: Comparison | Study) -> str:
    """Return one line that says where and when: processor, its limits in that run, versions, date."""
    machine = result.machine
    flags = f" ({', '.join(machine.flags)})" if machine.flags else ""
    limits = "".join(f", {limit}" for limit in _limits(result))
    versions = ", ".join(f"{name} {version}" for name, version in machine.packages.items() if name != "numpy")
    tuned = f"; tune={result.tune}" if result.tune != "none" else ""
    return f"{machine.cpu}{flags}{limits}; {versions}{tuned}; {result.date}"


def _limits(result: Comparison | Study) -> list[str]:
    if isinstance(result, Comparison):
        return [] if result.peak_gflops is None else [f"FMA peak {result.peak_gflops:.0f} GFLOP/s"]
    peaks = [f"FMA peak {peak:.0f} GFLOP/s on {threads_of(count)}" for count, peak in result.peak_gflops.items()]
    reads = ", ".join(f"{b.level} {b.gbytes_per_s:.0f} GB/s" for b in result.bandwidths)
    return [*peaks, f"reading {reads}"] if reads else peaks


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
