"""Which figures there are, and what they show: made from the committed result files, by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from monstera.measure import MONSTERA, Comparison, Point, Study, ratio
from monstera.report.drawing import Panel, svg
from monstera.report.searches import search_panels
from monstera.report.sources import Results
from monstera.report.studies import linear_ms, sweeps
from monstera.report.summary import by_machine
from monstera.report.tables import fastest_dense_guest


def figures(results: Results) -> dict[str, bytes]:
    """Return every figure as an SVG file by name; each says in its metadata what it was made from.

    Raises:
        ValueError: there are results to draw, and matplotlib is not installed.
    """
    drawn = {}
    for name, panels, paths in (*_networks(results), *_studies(results), *_searches(results)):
        source = ", ".join(path.relative_to(results.root).as_posix() for path in paths)
        drawn[name] = svg(panels, source, _digest(paths))
    return drawn


def _digest(paths: Iterable[Path]) -> str:
    return "sha256:" + hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _networks(results: Results) -> Iterator[tuple[str, list[Panel], list[Path]]]:
    """How many times faster than the fastest dense guest, a figure for each number of threads, a panel a machine."""
    for threads in sorted({comparison.threads for comparison in results.comparisons.values()}):
        chosen = {path: c for path, c in results.comparisons.items() if c.threads == threads}
        panels = [panel for title, group in by_machine(chosen.values()).items() if (panel := _panel(title, group))]
        if panels:
            yield f"networks-t{threads}.svg", panels, list(chosen)


def _panel(title: str, group: Sequence[Comparison]) -> Panel | None:
    """By network; None where no guest was timed."""
    kinds = dict.fromkeys(kind for comparison in group for kind in _speeds(comparison))
    series = {kind: {c.network: s[kind] for c in group if kind in (s := _speeds(c))} for kind in kinds}
    return Panel(f"times faster than the fastest dense fp32 guest, {title}", "", "times", series) if series else None


def _speeds(comparison: Comparison) -> dict[str, float]:
    """By weights, how many times faster Monstera is than the fastest dense guest; nothing without one."""
    guest = fastest_dense_guest(comparison)
    ours = [row for row in comparison.rows if row.engine == MONSTERA.name]
    if guest is None or guest.timing is None:
        return {}
    return {row.weights: ratio(guest.timing, row.timing) for row in ours if row.timing is not None}


def _studies(results: Results) -> Iterator[tuple[str, list[Panel], list[Path]]]:
    for path, study in results.studies.items():
        for name, panels in _panels(study).items():
            drawable = [panel for panel in panels if any(panel.series.values())]
            if drawable:
                yield f"{path.stem}-{name}.svg", drawable, [path]


def _searches(results: Results) -> Iterator[tuple[str, list[Panel], list[Path]]]:
    for path, found in results.searches.items():
        for name, panel in search_panels(found).items():
            yield f"{path.name.removesuffix('.pareto.json')}-{name}.svg", [panel], [path]


def _panels(study: Study) -> dict[str, list[Panel]]:
    """The figures of a study by name: one for each sweep of an axis, one for all planes, one for all ablations."""
    names = sweeps(study)
    match study.name:
        case "scaling":
            drawn = {"density": _density, "batch": _batch, "threads": _threads}
            return {name: [drawn[name](study)] for name in names if name in drawn}
        case "kernels":
            planes = [_kernels(study, name, "part of the FMA peak") for name in names if name.startswith("spmm")]
            products = [_kernels(study, name, "part of the bound") for name in names if name.startswith("spmv")]
            patterns = [_milliseconds(study, name) for name in names if name == "patterns"]
            return {"spmm": planes, "spmv": products, "patterns": patterns}
        case "ablation":
            return {"stages": [_milliseconds(study, name) for name in names]}
        case "architectures" | "planning":
            return {}
    known = "scaling, kernels, ablation, architectures, planning"
    raise ValueError(f"nobody shows a study called {study.name!r}; there are {known}")


def _density(study: Study) -> Panel:
    linear = linear_ms(study)
    bound = {"linear: t(0.02) + 1.1 d t(1)": linear} if linear else {}
    series = {line: _times(points) for line, points in study.sweep("density").items()}
    return Panel(f"{study.subject}, 1 thread", "density d", "ms", series, bound, "log-log")


def _batch(study: Study) -> Panel:
    series = {
        line: {int(batch): ms / int(batch) for batch, ms in _times(points).items()}
        for line, points in study.sweep("batch").items()
    }
    return Panel(f"{study.subject}, 1 thread", "inputs a call", "ms an input", series)


def _threads(study: Study) -> Panel:
    series = {}
    for line, points in study.sweep("threads").items():
        timings = {int(point.at): point.timing for point in points if point.timing is not None}
        if 1 in timings:
            series[line] = {threads: ratio(timings[1], timing) for threads, timing in timings.items()}
    ideal = {"as many times": {threads: float(threads) for line in series.values() for threads in line}}
    return Panel(study.subject, "threads", "times faster than one", series, ideal)


def _kernels(study: Study, sweep: str, up: str) -> Panel:
    series = {
        line: {point.at: share for point in points if (share := study.efficiency(point)) is not None}
        for line, points in study.sweep(sweep).items()
    }
    return Panel(f"{sweep}, {study.subject}", "columns", up, series, scale="log")


def _milliseconds(study: Study, sweep: str) -> Panel:
    series = {line: _times(points) for line, points in study.sweep(sweep).items()}
    return Panel(sweep, "", "ms", {line: values for line, values in series.items() if values})


def _times(points: Iterable[Point]) -> Mapping[str | int | float, float]:
    return {point.at: point.timing.median_ms for point in points if point.timing is not None}
