"""Tables of studies: a line a point for the terminal, and a small matrix of places and lines for the docs."""

from __future__ import annotations

from monstera.measure import Point, Study
from monstera.report.tables import Table, milliseconds, spread

# The design's bound for cost that is linear in density: the time at this one, and a tenth more than the dense share.
_FLOOR, _SLOPE = 0.02, 1.1


def study_tables(study: Study) -> list[Table]:
    """Return a table for each sweep of `study`, with a line for each point, in the order they were measured."""
    return [_table(study, sweep) for sweep in sweeps(study)]


def sweeps(study: Study) -> list[str]:
    """Return the names of what was measured, in order."""
    return list(dict.fromkeys(point.sweep for point in study.points))


def matrix(study: Study, sweep: str) -> Table:
    """Return one sweep with a line for each place on its axis, and a column for each line of its figure.

    A cell is the time in ms, and the share of what the machine allows. For density a column says what would still be
    linear (see `linear_ms`).
    """
    lines = study.sweep(sweep)
    places = list(dict.fromkeys(point.at for points in lines.values() for point in points))
    allowed = linear_ms(study) if sweep == "density" else {}
    columns = (sweep, *lines, *(["linear, ms"] if allowed else []))
    return Table(
        f"{study.subject}, {sweep}",
        columns,
        tuple(
            (
                str(at),
                *(_cell(study, at, points) for points in lines.values()),
                *([milliseconds(allowed[float(at)])] if allowed else []),
            )
            for at in places
        ),
    )


def linear_ms(study: Study) -> dict[float, float]:
    """Return by density how long the network may take if its cost is linear: t(0.02) + 1.1 * density * t(1), in ms.

    Nothing where one of the two was not measured. It is read off the first line of the sweep.
    """
    points = next(iter(study.sweep("density").values()), ())
    times = {float(point.at): point.timing.median_ms for point in points if point.timing is not None}
    if not {_FLOOR, 1.0} <= times.keys():
        return {}
    return {density: times[_FLOOR] + _SLOPE * density * times[1.0] for density in times}


def _cell(study: Study, at: str | int | float, points: tuple[Point, ...]) -> str:
    found = [point for point in points if point.at == at]
    if not found:
        return ""
    (point,) = found
    if point.timing is None:
        return point.note
    efficiency = study.efficiency(point)
    share = "" if efficiency is None else f" ({efficiency:.0%})"
    return f"{milliseconds(point.timing.median_ms)}{share}"


def _table(study: Study, sweep: str) -> Table:
    points = [point for point in study.points if point.sweep == sweep]
    kernels = any("kernel" in point.facts for point in points)
    named = ("line", "at", *(["kernel"] if kernels else []))
    columns = (*named, "MMAC left", "ms", "spread", "GFLOP/s", "of the bound", "error")
    return Table(f"{study.subject}, {sweep}", columns, tuple(_line(study, point, kernels) for point in points))


def _line(study: Study, point: Point, kernels: bool) -> tuple[str, ...]:
    named = (point.line, str(point.at), *([str(point.facts.get("kernel", ""))] if kernels else []))
    work = f"{point.macs.surviving / 1e6:.2f}"
    error = "" if point.error is None else f"{point.error:.0e}"
    if point.timing is None:
        return (*named, work, point.note, "", "", "", error)
    efficiency = study.efficiency(point)
    return (
        *named,
        work,
        milliseconds(point.timing.median_ms),
        spread(point.timing),
        f"{2 * point.macs.surviving / point.timing.median_ms / 1e6:.1f}",
        "" if efficiency is None else f"{efficiency:.0%}",
        error,
    )
