"""`compile`: from a torch module to an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from monstera.compiler.build import build, code_flags, compiler_command, compiler_version
from monstera.compiler.emit import ABI, Unit, emit, unit
from monstera.compiler.frontends import Imported, from_torch
from monstera.compiler.lowering import lower
from monstera.compiler.passes import optimize
from monstera.compiler.program import Step
from monstera.compiler.targets import Target, platform_of, target_named
from monstera.runtime import Artifact, Engine, InputSpec, LayerSpec, Manifest, assemble, pack_tensors


def compile(model: torch.nn.Module, example: Any, *, threads: int = 1, target: str = "native") -> Engine:  # noqa: A001
    """Compile a network for this machine or another. Holes are read off its weights, whoever made them.

    The answer is an `Engine` wherever it was made, so that a script that compiles and saves does the same on every
    machine. One that cannot run here (`engine.runs_here`) raises an error when it is called, which says what it needs.

    Args:
        model: a torch module in eval mode, fp32, on the CPU or not; it is not modified.
        example: what it is called with: a tensor, a tuple of tensors (positional) or a dict (keyword arguments).
            Fixes the shapes; the values do not matter.
        threads: how many threads a run uses.
        target: the instruction set: "avx512", "avx2", "neon" (64-bit Arm), or "native" for the widest of this machine.
            Another architecture than this machine's is built for Linux, by the compiler of the ziglang wheel.

    Raises:
        ValueError: training mode, weights that are NaN or not fp32, an input that is not an fp32 tensor, threads < 1,
            an unknown target.
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
    args, kwargs = _call(example)
    imported = from_torch(model, args, kwargs)
    program = unit(lower(optimize(imported.graph), chosen, threads))
    source = emit([program], chosen, threads)
    library = build(source, chosen)
    manifest = manifest_of(imported, program, chosen, threads)
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


def manifest_of(imported: Imported, u: Unit, target: Target, threads: int) -> Manifest:
    """Describe a placed program: what its caller passes and gets, what its library says of itself."""
    layers = tuple(_layer(step) for step in u.program.steps)
    return Manifest(
        target=target.name,
        platform=platform_of(target),
        features=target.features,
        flags=code_flags(target),
        threads=threads,
        abi=ABI,
        arena_floats=u.arena.size,
        best_floats=u.arena.best,
        weight_bytes=sum(-(-t.nbytes // 64) * 64 for t in u.program.tables.values()),
        compiler=compiler_version(tuple(compiler_command(target))),
        inputs=tuple(InputSpec(i.name, i.shape, i.dtype, i.positional) for i in imported.inputs),
        outputs=tuple(shape for _, shape in u.program.outputs),
        output=imported.output,
        layers=layers,
    )


def _layer(step: Step) -> LayerSpec:
    work = step.work
    return LayerSpec(step.layer, step.title, step.kernel.name, work.dense_macs, work.macs, work.bytes, work.packing)
