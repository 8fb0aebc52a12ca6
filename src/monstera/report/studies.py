"""Tables of studies: one for each sweep, a line a point, with its time against what the machine allows."""

from __future__ import annotations

from monstera.measure import Point, Study
from monstera.report.tables import Table, milliseconds


def study_tables(study: Study) -> list[Table]:
    """Return a table for each sweep of `study`, in the order they were measured."""
    return [_table(study, sweep) for sweep in dict.fromkeys(point.sweep for point in study.points)]


def _table(study: Study, sweep: str) -> Table:
    points = [point for point in study.points if point.sweep == sweep]
    kernels = any("kernel" in point.facts for point in points)
    named = ("line", "at", *(["kernel"] if kernels else []))
    columns = (*named, "MMAC left", "ms", "spread", "GFLOP/s", "of the bound", "error")
    lines = tuple(_line(study, point, kernels) for point in points)
    return Table(f"{study.subject}, {sweep}", columns, lines)


def _line(study: Study, point: Point, kernels: bool) -> tuple[str, ...]:
    named = (point.line, str(point.at), *([str(point.facts.get("kernel", ""))] if kernels else []))
    work = f"{point.macs.surviving / 1e6:.2f}"
    if point.timing is None:
        return (*named, work, point.note, "", "", "", "")
    efficiency = study.efficiency(point)
    return (
        *named,
        work,
        milliseconds(point.timing.median_ms),
        f"{point.timing.spread:.0%}",
        f"{2 * point.macs.surviving / point.timing.median_ms / 1e6:.1f}",
        "" if efficiency is None else f"{efficiency:.0%}",
        "" if point.error is None else f"{point.error:.0e}",
    )


def limits(study: Study) -> str:
    """Return one line on what the machine can do, as it was measured in the run: FMA peak and bandwidths."""
    peaks = [f"FMA peak {peak:.0f} GFLOP/s on {_threads(count)}" for count, peak in study.peak_gflops.items()]
    reads = [f"{b.level} {b.gbytes_per_s:.0f} GB/s" for b in study.bandwidths]
    return "; ".join([*peaks, *([f"reading {', '.join(reads)}"] if reads else [])])


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
