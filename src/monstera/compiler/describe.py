"""The manifest of a program: what its artifact says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monstera.compiler.build import code_flags, compiler_command, compiler_version
from monstera.compiler.emit import ABI, Unit
from monstera.compiler.frontends import Imported
from monstera.compiler.program import Step
from monstera.compiler.targets import Target, platform_of
from monstera.runtime import LayerSpec, Manifest, ProgramSpec


def manifest_of(
    imported: Sequence[Imported],
    units: Sequence[Unit],
    target: Target,
    threads: int,
    tuning: Mapping[str, Any] | None = None,
    tap_bytes: int = 0,
) -> Manifest:
    """Describe placed programs: what callers pass and get, what their library says of itself, how it was tuned."""
    return Manifest(
        target=target.name,
        platform=platform_of(target),
        features=target.features,
        flags=code_flags(target),
        threads=threads,
        abi=ABI,
        weight_bytes=units[0].weight_bytes,
        tap_bytes=tap_bytes,
        compiler=compiler_version(tuple(compiler_command(target))),
        programs=tuple(_program(i, u) for i, u in zip(imported, units, strict=True)),
        tuning=tuning or {},
    )


def _program(imported: Imported, u: Unit) -> ProgramSpec:
    return ProgramSpec(
        inputs=imported.inputs,
        outputs=tuple(shape for _, shape in u.program.outputs),
        output=imported.output,
        arena_floats=u.arena.size,
        best_floats=u.arena.best,
        layers=tuple(_layer(step) for step in u.program.steps),
    )


def _layer(step: Step) -> LayerSpec:
    work = step.work
    return LayerSpec(step.layer, step.title, step.kernel.name, work.dense_macs, work.macs, work.bytes, work.packing)
