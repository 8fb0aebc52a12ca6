"""The page of architectures of the transformers library: what compiles, how far off it is, how long it takes."""

from __future__ import annotations

from pathlib import Path

from monstera.measure import Point, Study, ratio
from monstera.report.sources import Results
from monstera.report.studies import sweeps
from monstera.report.tables import Table, circumstances, markdown, milliseconds

MODELS = "docs/models.md"
STUDY = "architectures"

_INTRODUCTION = """# Architectures of the transformers library

Made by `make results` from what `benchmarks/architectures.py` found. Every architecture is built from its config with
random weights, put into eval mode and compiled as it is, dense and with blocks of four rows (`4x1`) at density 0.25 in
all weights but the first convolution, depthwise convolutions, the last linear layer and embeddings. Both answers are
compared with torch in float64 on the same weights; *error* is the larger of the two largest differences, relative to
the largest output. It *works* if both are within 1e-4. *ms* are medians of interleaved rounds on one thread, batch 1,
and in brackets how many times faster than torch eager; *spread* is the largest of the three, between the slowest and
the fastest round: where it is large, something else ran on the machine. The small size has two layers and 64 features
or about as few: its times say what a call costs, not what holes buy; for that see [`results.md`](results.md).
"""

_COLUMNS = ("architecture", "class", "MMAC", "torch eager, ms", "dense, ms", "at 0.25, ms", "spread", "error")


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
    parts = [f"## Size: {study.subject}\n\n{len(working)} of {len(every)} architectures work.\n"]
    for kind in sweeps(study):
        lines = tuple(_line(points) for points in working.values() if points[0].sweep == kind)
        if lines:
            parts.append(f"**{kind}**\n\n{markdown(Table(kind, _COLUMNS, lines))}")
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


def _line(points: tuple[Point, ...]) -> tuple[str, ...]:
    eager, dense, sparse = points
    part = f" ({eager.facts['part']})" if eager.facts["part"] else ""
    return (
        str(eager.at),
        f"`{eager.facts['model']}`{part}",
        f"{dense.macs.dense / 1e6:.1f}",
        milliseconds(eager.timing.median_ms) if eager.timing else "",
        _time(eager, dense),
        _time(eager, sparse),
        f"{max(point.timing.spread for point in points if point.timing):.0%}",
        f"{max(dense.error or 0, sparse.error or 0):.0e}",
    )


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
