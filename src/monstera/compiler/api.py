"""`compile`: from a torch module to an engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from monstera.compiler.build import build
from monstera.compiler.describe import manifest_of
from monstera.compiler.emit import emit, unit
from monstera.compiler.frontends import from_torch
from monstera.compiler.lowering import lower_with
from monstera.compiler.passes import optimize
from monstera.compiler.targets import target_named
from monstera.compiler.tuning import Effort, Table, read_tuning, tune_layers
from monstera.runtime import Artifact, Engine, assemble, pack_tensors


def compile(  # noqa: A001
    model: torch.nn.Module,
    example: Any,
    *,
    threads: int = 1,
    target: str = "native",
    tune: Effort = "none",
    tuning: Table | str | os.PathLike[str] | None = None,
) -> Engine:
    """Compile a network for this machine or another. Holes are read off its weights, whoever made them.

    The answer is an `Engine` wherever it was made, so that a script that compiles and saves does the same on every
    machine. One that cannot run here (`engine.runs_here`) raises an error when it is called, which says what it needs.

    Args:
        model: a torch module in eval mode, fp32, on the CPU or not; it is not modified.
        example: what it is called with: a tensor, a tuple of tensors (positional) or a dict (keyword arguments).
            Fixes shapes and dtypes (fp32, int64, int32 or bool); the values do not matter.
        threads: how many threads a run uses.
        target: the instruction set: "avx512", "avx2", "neon" (64-bit Arm), or "native" for the widest of this machine.
            Another architecture than this machine's is built for Linux, by the compiler of the ziglang wheel.
        tune: "none" chooses how each layer runs by a model of its cost, "fast" times the most promising ways, "full"
            searches for better ones for minutes. What was found is kept on this machine and found again.
        tuning: a table of choices (`monstera.read_tuning`), or the path of one; its layers are not
            timed again.

    Raises:
        ValueError: training mode, weights that are NaN or not fp32, an input that is no tensor of fp32, whole
            numbers or truth values, threads < 1, an unknown target or effort, tuning asked for a target that this
            machine cannot run.
        TableError: `tuning` is the path of something else than a tuning table.
        UnsupportedError: operators outside the IR, all of them listed with the layer they come from.
        BuildError: no C compiler for this target, or its cache cannot be written.
        RuntimeError: the target is "native" and this machine has none of the instruction sets.

    Example:
        >>> import torch, monstera as ms
        >>> engine = ms.compile(torch.nn.Conv2d(3, 8, 3).eval(), torch.zeros(1, 3, 16, 16))
        >>> engine(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 8, 14, 14])
    """
    if not isinstance(threads, int) or not 1 <= threads <= 64:
        raise ValueError(f"threads must be a whole number from 1 to 64, got {threads!r}")
    chosen = target_named(target)
    table = tuning if isinstance(tuning, Table) else Table() if tuning is None else read_tuning(tuning)
    args, kwargs = _call(example)
    imported = from_torch(model, args, kwargs)
    imported = replace(imported, graph=optimize(imported.graph))
    table = tune_layers(imported, chosen, threads, tune, table)
    lowered = lower_with(imported.graph, chosen, threads, {key: [c] for key, c in table.choices.items()})
    program = unit(lowered.program)
    source = emit([program], chosen, threads)
    library = build(source, chosen)
    manifest = manifest_of(imported, program, chosen, threads, table.of(lowered.cases))
    weights = pack_tensors(program.program.tables)
    return assemble(Artifact(manifest, weights, source.encode(), library.read_bytes()), library)


def _call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    match example:
        case Mapping():
            return (), dict(example)
        case tuple() | list():
            return tuple(example), {}
        case _:
            return (example,), {}
