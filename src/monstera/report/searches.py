"""Searches: the best of each source within the budget as a table, the fronts and the curves as figures."""

from __future__ import annotations

from collections.abc import Iterator

from monstera.report.drawing import Panel
from monstera.report.tables import Table, milliseconds
from monstera.search import Candidate, Pareto


def search_table(found: Pareto) -> Table:
    """Return a line for each source: its most accurate candidate within the budget, of equal ones the fastest."""
    budget = "" if found.latency_ms is None else f", at most {milliseconds(found.latency_ms)} ms"
    title = f"{found.network}{budget}: accuracy on {found.accuracy_of}; ms {found.ms_of}"
    return Table(title, ("source", "candidates", "accuracy", "ms", "weights with holes"), tuple(_lines(found)))


def search_panels(found: Pareto) -> dict[str, Panel]:
    """Return the figures of a file by name: accuracy against time for each source, and rewards by trial."""
    fronts = {source: {c.ms: c.accuracy for c in some} for source, some in _by_source(found).items()}
    panels = {"front": Panel(found.network, f"ms, {found.ms_of}", "accuracy", fronts)}
    if found.curves:
        curves = {name: dict(enumerate(values, start=1)) for name, values in found.curves.items()}
        panels["curves"] = Panel(found.network, "trials", "best reward so far", curves)
    return panels


def _by_source(found: Pareto) -> dict[str, list[Candidate]]:
    """The candidates of each source, the fastest first."""
    sources = dict.fromkeys(candidate.source for candidate in found.candidates)
    return {
        source: sorted((c for c in found.candidates if c.source == source), key=lambda c: (c.ms, -c.accuracy))
        for source in sources
    }


def _lines(found: Pareto) -> Iterator[tuple[str, ...]]:
    chosen = None if found.chosen is None else found.candidates[found.chosen]
    for source, candidates in _by_source(found).items():
        within = [c for c in candidates if found.latency_ms is None or c.ms <= found.latency_ms * (1 + 1e-9)]
        best = max(within, key=lambda c: (c.accuracy, -c.ms), default=None)
        name = f"**{source}**" if best is not None and best is chosen else source
        if best is None:
            yield name, str(len(candidates)), "none within the budget", milliseconds(candidates[0].ms), ""
        else:
            yield name, str(len(candidates)), f"{best.accuracy:.2%}", milliseconds(best.ms), str(len(best.plan))
