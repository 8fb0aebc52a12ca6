"""The table of plans by budget: what was asked for, what was predicted, and what it came to."""

from __future__ import annotations

from monstera.measure import Point, Study, ratio
from monstera.report.tables import Table, milliseconds, spread, threads_of

STUDY = "planning"


def planning_table(study: Study) -> Table:
    """Return one line for each goal and state of the table of costs; the dense network is what speedups are against.

    "reached" is from the race of all plans after they were made, "while planning" what a plan was accepted by.

    Raises:
        ValueError: the study holds no dense network, or a point was not timed.
    """
    dense = next((point for point in study.points if point.line == "dense"), None)
    plans = [point for point in study.points if point is not dense]
    if dense is None or dense.timing is None or not plans:
        raise ValueError(f"{study.name}, {study.subject}: expected a timed dense network and plans beside it")
    columns = ("asked for", "costs known", "predicted", "while planning", "reached", "off", "spread", "plans", "s")
    lines = tuple(_line(point, dense) for point in plans)
    return Table(f"{study.subject}, {threads_of(dense.threads)}: plans by budget", columns, lines)


def _line(point: Point, dense: Point) -> tuple[str, ...]:
    if point.timing is None or dense.timing is None:
        raise ValueError(f"{point.sweep}, {point.line} at {point.at}: expected a timing")
    facts, fast = point.facts, point.facts["kind"] == "speedup"
    asked = float(facts["asked"])
    reached = ratio(dense.timing, point.timing) if fast else point.timing.median_ms
    return (
        str(point.at),
        "yes" if point.line == "table" else "no",
        *(f"{value:.2f}x" if fast else milliseconds(value) for value in _values(facts, reached)),
        # By how much the call takes longer than was asked for.
        f"{(asked / reached if fast else reached / asked) - 1:+.1%}",
        spread(point.timing),
        str(facts["tries"]),
        f"{float(facts['seconds']):.0f}",
    )


def _values(facts: dict[str, str | int | float], reached: float) -> tuple[float, float, float]:
    return float(facts["predicted"]), float(facts["measured"]), reached
