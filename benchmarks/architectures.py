"""Compiles architectures of the transformers library: `python benchmarks/architectures.py`, then `make results`.

Each is built from its config with random weights, compiled dense and with blocks of four rows at density 0.25, compared
with torch in float64 on the same weights, and timed beside torch eager. What does not work has a row that says why.
"""

from __future__ import annotations

import copy
import gc
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import parametrize

import monstera as ms
from architecture_list import ARCHITECTURES, Architecture, Size, build, example
from monstera import measure
from monstera.report import study_tables, terminal
from monstera.sparsity.rules import SKIPPED

RESULTS = Path(__file__).parent / "results"
DENSITY = 0.25
EAGER, DENSE, SPARSE = "torch eager", "dense", f"4x1 at density {DENSITY:g}"


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Architectures; all if left out.")] = None,
    size: Annotated[Size, typer.Option(help="Two narrow layers, or the library's own config.")] = "small",
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
    points: tuple[measure.Point, ...] = ()
    for architecture in chosen:
        found = survey(architecture, size, rounds, round_s)
        points += found
        console.print(f"{architecture.name}: {'; '.join(_told(point) for point in found)}", soft_wrap=True)
        gc.collect()
    study = measure.make_study("architectures", size, points, measure.fma_peaks([1]))
    path = out / ("architectures.json" if size == "small" else f"architectures-{size}.json")
    measure.write_study(study, path)
    for table in study_tables(study):
        console.print(terminal(table))
    console.print(f"written to {path}", style="dim")


def survey(architecture: Architecture, size: Size, rounds: int, round_s: float) -> tuple[measure.Point, ...]:
    """Return the points of one architecture: torch, ours dense, ours sparse; each with a time or a reason."""
    try:
        torch.manual_seed(0)
        dense, inputs = build(architecture, size), example(architecture, size)
        models = {EAGER: dense, DENSE: dense, SPARSE: _pruned(dense)}
        macs = {line: measure.count_macs(model, inputs) for line, model in models.items()}
    # Whatever another library raises belongs into its row.
    except Exception as error:
        nothing = measure.Macs(0, 0)
        return tuple(_point(architecture, line, nothing, note=reason(error)) for line in (EAGER, DENSE, SPARSE))
    calls, errors, notes = {}, {}, {}
    for line, model in models.items():
        try:
            call = (
                partial(_eager, model, inputs) if line == EAGER else partial(ms.compile(model, dict(inputs)), **inputs)
            )
            errors[line] = _error(call, model, inputs)
            calls[line] = call
        except Exception as error:
            notes[line] = reason(error)
    timings = measure.race(calls, rounds=rounds, round_s=round_s)
    return tuple(
        _point(architecture, line, macs[line], errors.get(line), timings.get(line), notes.get(line, ""))
        for line in models
    )


def reason(error: Exception) -> str:
    """What an error says in one line: of operators that are refused, each once, without its layer."""
    text = str(error).strip() or "no message"
    if not isinstance(error, ms.UnsupportedError) or "\n" not in text:
        return f"{type(error).__name__}: {text.splitlines()[0]}"
    refused = (line.strip() for line in text.splitlines()[1:])
    operators = (f"{line.split(' in ')[0]}: {line.partition(': ')[2]}" for line in refused if ": " in line)
    return "; ".join(dict.fromkeys(operators))


def _chosen(names: list[str]) -> list[Architecture]:
    known = {architecture.name.lower(): architecture for architecture in ARCHITECTURES}
    if unknown := [name for name in names if name.lower() not in known]:
        raise ValueError(f"unknown architectures: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name.lower()] for name in names] or list(ARCHITECTURES)


def _pruned(dense: nn.Module) -> nn.Module:
    """A copy with holes in all weights that a plan can see; those computed from others stay dense."""
    model = copy.deepcopy(dense)
    computed = [name for name, module in model.named_modules() if parametrize.is_parametrized(module)]
    ms.prune(model, ms.Plan.uniform(model, "4x1", DENSITY, skip=(*SKIPPED, *computed)))
    return model


def _error(call: Callable[[], object], model: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """How far off an answer is; refused if that is more than fp32 arithmetic explains."""
    error = measure.max_error(call(), measure.reference(model, inputs))
    if not error <= measure.FP32_TOLERANCE:
        raise measure.WrongAnswerError(f"off by {error:.1e} of the largest output")
    return error


def _eager(model: nn.Module, inputs: Mapping[str, Tensor]) -> object:
    with torch.inference_mode():
        return model(**inputs)


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
    if point.timing is None:
        return f"{point.line}: {point.note}"
    return f"{point.line} {point.timing.median_ms:.2f} ms, error {point.error:.0e}"


if __name__ == "__main__":
    try:
        typer.run(main)
    except ValueError as reason_:
        sys.exit(f"error: {reason_}")
