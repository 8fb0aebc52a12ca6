"""Compiles architectures of the transformers library: `python benchmarks/architectures.py`, then `make results`.

Each is built from its config with random weights, compiled dense and with blocks of four rows at density 0.25, compared
with torch in float64 on the same weights, and timed beside torch eager; `--no-times` only compares the answers, which
any machine can do, however busy. What does not work has a row that says why.
"""

from __future__ import annotations

import gc
import logging
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

import monstera as ms
from architecture_list import ARCHITECTURES, Architecture, Size, build, example
from monstera import measure
from monstera.report import study_tables, terminal
from monstera.sparsity import projected_copy

RESULTS = Path(__file__).parent / "results"
(WAY,) = measure.holes(["4x1"], [0.25])
EAGER, DENSE, SPARSE = "torch eager", "dense", str(WAY)
# A line of the list of what the compiler refuses: operator, layer, reason.
_REFUSED = re.compile(r"^ +(\S+) in .+?: (.+)$", re.MULTILINE)


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Architectures; all if left out.")] = None,
    size: Annotated[Size, typer.Option(help="Two narrow layers, or the library's own config.")] = "small",
    times: Annotated[bool, typer.Option(help="Time them, or only compare their answers.")] = True,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds, at least 3.")] = 3,
    round_s: Annotated[float, typer.Option("--seconds", help="Seconds an engine has in a round.")] = 0.1,
    out: Annotated[Path, typer.Option(help="Folder of the JSON.")] = RESULTS,
) -> None:
    """Compile, compare and time each architecture, and write the result as JSON."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    chosen = _chosen(names or [])
    # What the library says about configs that nobody has trained.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="transformers")
    # From a copy of a model with trees of torch in it.
    warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
    measure.pin(1)
    torch.set_num_threads(1)
    pace = measure.Pace(1, len(chosen) * 3 * rounds * round_s) if times else None
    points: tuple[measure.Point, ...] = ()
    for architecture in chosen:
        found = survey(architecture, size, pace, rounds, round_s)
        points += found
        console.print(f"{architecture.name}: {'; '.join(_told(point) for point in found)}", soft_wrap=True)
        gc.collect()
    peaks = {1: pace.peak_gflops} if pace and pace.peak_gflops else {}
    study = measure.make_study("architectures", size, points, peaks)
    path = out / ("architectures.json" if size == "small" else f"architectures-{size}.json")
    measure.write_study(study, path)
    for table in study_tables(study):
        console.print(terminal(table))
    console.print(f"written to {path}", style="dim")


def survey(
    architecture: Architecture, size: Size, pace: measure.Pace | None = None, rounds: int = 3, round_s: float = 0.1
) -> tuple[measure.Point, ...]:
    """Return the points of one architecture: torch, ours dense, ours sparse; each with an error or a reason.

    With a `pace` those that answer right are timed as well.
    """
    try:
        torch.manual_seed(0)
        dense, inputs = build(architecture, size), example(architecture, size)
        plan = WAY.plan(dense, [f"{architecture.unread}.*"] if architecture.unread else [])
        models = {EAGER: dense, DENSE: dense, SPARSE: projected_copy(dense, plan)}
        macs = {line: measure.count_macs(model, inputs) for line, model in models.items()}
    # Whatever another library raises belongs into its row.
    except Exception as error:
        nothing = measure.Macs(0, 0)
        return tuple(_point(architecture, line, nothing, note=reason(error)) for line in (EAGER, DENSE, SPARSE))
    calls, errors, notes = {}, {}, {}
    for line, model in models.items():
        peer = measure.EAGER if line == EAGER else measure.MONSTERA
        try:
            call = peer.prepare(model, inputs, 1)
            errors[line] = _error(call(), model, inputs)
            calls[line] = call
        except Exception as error:
            notes[line] = reason(error)
    timings = measure.race(calls, rounds=rounds, round_s=round_s, pace=pace) if pace else {}
    return tuple(
        _point(architecture, line, macs[line], errors.get(line), timings.get(line), notes.get(line, ""))
        for line in models
    )


def reason(error: Exception) -> str:
    """What an error says in one line: of refused operators each once, without its layer; of a list, its first item."""
    text = str(error).strip() or "no message"
    refused = _REFUSED.findall(text) if isinstance(error, ms.UnsupportedError) else []
    if not refused:
        first, *more = text.splitlines()
        return f"{type(error).__name__}: {first}" + (f" {more[0].strip(' -')}" if more and first[-1] == ":" else "")
    return "; ".join(dict.fromkeys(f"{operator}: {why}" for operator, why in refused))


def _chosen(names: list[str]) -> list[Architecture]:
    known = {architecture.name.lower(): architecture for architecture in ARCHITECTURES}
    if unknown := [name for name in names if name.lower() not in known]:
        raise ValueError(f"unknown architectures: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name.lower()] for name in names] or list(ARCHITECTURES)


def _error(answer: object, model: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """How far off an answer is; refused if that is more than fp32 arithmetic explains."""
    error = measure.max_error(answer, measure.reference(model, inputs))
    if not error <= measure.FP32_TOLERANCE:
        raise measure.WrongAnswerError(f"off by {error:.1e} of the largest output")
    return error


def _point(
    architecture: Architecture,
    line: str,
    macs: measure.Macs,
    error: float | None = None,
    timing: measure.Timing | None = None,
    note: str = "",
) -> measure.Point:
    part = architecture.part or architecture.answer
    facts: dict[str, measure.Fact] = {"model": architecture.model, "part": part}
    return measure.Point(architecture.kind, line, architecture.name, macs, error, timing, note, 1, facts)


def _told(point: measure.Point) -> str:
    if point.note:
        return f"{point.line}: {point.note}"
    time = f"{point.timing.median_ms:.2f} ms, " if point.timing else ""
    return f"{point.line} {time}error {point.error:.0e}"


if __name__ == "__main__":
    try:
        typer.run(main)
    except ValueError as reason_:
        sys.exit(f"error: {reason_}")
