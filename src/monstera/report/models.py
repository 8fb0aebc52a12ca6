"""The page of architectures of the transformers library: what compiles, how far off it is, how long it takes."""

from __future__ import annotations

from pathlib import Path

from monstera.measure import FP32_TOLERANCE, Point, Study, ratio
from monstera.report.sources import Results
from monstera.report.studies import sweeps
from monstera.report.tables import Table, circumstances, markdown, milliseconds, spread

MODELS = "docs/models.md"
STUDY = "architectures"

_INTRODUCTION = f"""# Architectures of the transformers library

Made by `make results` from what `benchmarks/architectures.py` found. Every architecture is built from its config with
random weights, put into eval mode and compiled as it is, dense and with holes in all weights but the first convolution,
depthwise convolutions, tables of embeddings that are no output layer as well, and the classifier (the last linear layer
of a network with convolutions). The last quarter of the tokens is padding, which the mask hides. Both answers are
compared with torch in float64 on the same weights; *error* is the larger of the two largest differences, relative to
the largest output. An architecture *works* if both are within {FP32_TOLERANCE:.0e}. *MMAC* are the millions of
multiply-accumulates of a dense run. The small size has two layers and 64 features or about as few.
"""
_TIMED = """*ms* are medians of interleaved rounds on one thread, batch 1, and in brackets how many times faster than
torch eager; *spread* is the largest of the three, between the slowest and the fastest round. Times of so small a
network say what a call costs, not what holes buy; for that see [`results.md`](results.md).
"""
_UNTIMED = """This run compared answers only (`--no-times`): how long these architectures take has not been measured.
"""


def models_page(results: Results) -> str | None:
    """Return the Markdown of the page; None where no architecture was ever tried.

    Raises:
        ValueError: a study has not three points for each architecture.
    """
    studies = results.studied(STUDY)
    if not studies:
        return None
    return "\n".join([_INTRODUCTION, *(_section(study, path, results.root) for path, study in studies.items())])


def works(study: Study) -> dict[str, tuple[Point, ...]]:
    """Return the points of the architectures whose engines all gave the right answer, by name, in order."""
    return {name: points for name, points in _by_name(study).items() if not any(point.note for point in points)}


def _section(study: Study, path: Path, root: Path) -> str:
    working, every = works(study), _by_name(study)
    timed = any(point.timing for point in study.points)
    *_, sparse = dict.fromkeys(point.line for point in study.points)
    parts = [
        f"## Size: {study.subject}\n\n{len(working)} of {len(every)} architectures work, dense and with {sparse}.\n"
    ]
    parts.append(_TIMED if timed else _UNTIMED)
    for kind in sweeps(study):
        chosen = [points for points in working.values() if points[0].sweep == kind]
        if chosen:
            cells = [_cells(points, timed) for points in chosen]
            parts.append(f"**{kind}**\n\n{markdown(Table(kind, (*cells[0],), tuple((*c.values(),) for c in cells)))}")
    refused = tuple((name, _reasons(points)) for name, points in every.items() if name not in working)
    if refused:
        parts.append(f"**Not yet**\n\n{markdown(Table('not yet', ('architecture', 'why'), refused))}")
    source = path.relative_to(root).as_posix()
    parts.append(f"{circumstances(study)}. Source: [`{source}`](../{source})\n")
    return "\n".join(parts)


def _by_name(study: Study) -> dict[str, tuple[Point, ...]]:
    """Torch's point, ours dense and ours with holes, for each architecture."""
    names = dict.fromkeys(str(point.at) for point in study.points)
    found = {name: tuple(point for point in study.points if point.at == name) for name in names}
    if wrong := [name for name, points in found.items() if len(points) != 3]:
        raise ValueError(f"expected three points for each architecture; {', '.join(wrong)} have not")
    return found


def _cells(points: tuple[Point, ...], timed: bool) -> dict[str, str]:
    """The line of an architecture that works, by column."""
    eager, dense, sparse = points
    part = f" ({eager.facts['part']})" if eager.facts["part"] else ""
    return {
        "architecture": str(eager.at),
        "class": f"`{eager.facts['model']}`{part}",
        "MMAC": f"{dense.macs.dense / 1e6:.1f}",
        **(_times(points) if timed else {}),
        "error": f"{max(dense.error or 0, sparse.error or 0):.0e}",
    }


def _times(points: tuple[Point, ...]) -> dict[str, str]:
    eager, *ours = points
    timings = [point.timing for point in points if point.timing]
    return {
        f"{eager.line}, ms": milliseconds(eager.timing.median_ms) if eager.timing else "",
        **{f"{point.line}, ms": _time(eager, point) for point in ours},
        "spread": spread(max(timings, key=lambda timing: timing.spread)) if timings else "",
    }


def _time(eager: Point, ours: Point) -> str:
    if eager.timing is None or ours.timing is None:
        return ""
    return f"{milliseconds(ours.timing.median_ms)} ({ratio(eager.timing, ours.timing):.1f}x)"


def _reasons(points: tuple[Point, ...]) -> str:
    """Each reason once; where only one engine fails, which."""
    notes = {point.line: point.note for point in points if point.note}
    if len(set(notes.values())) == 1 and len(notes) > 1:
        return next(iter(notes.values()))
    return "; ".join(f"{line}: {note}" for line, note in notes.items())
