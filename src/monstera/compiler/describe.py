"""The manifest of a program: what its artifact says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monstera.compiler.build import code_flags, compiler_command, compiler_version
from monstera.compiler.emit import ABI, Unit
from monstera.compiler.frontends import Imported
from monstera.compiler.program import Step
from monstera.compiler.targets import Target, platform_of
from monstera.runtime import InputSpec, LayerSpec, Manifest
from monstera.runtime.tensors import data_size


def manifest_of(
    imported: Imported, u: Unit, target: Target, threads: int, tuning: Mapping[str, Any] | None = None
) -> Manifest:
    """Describe a placed program: what its caller passes and gets, what its library says of itself, how it was tuned."""
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
        weight_bytes=data_size(u.program.tables),
        compiler=compiler_version(tuple(compiler_command(target))),
        inputs=tuple(InputSpec(i.name, i.shape, i.dtype, i.positional, i.limit) for i in imported.inputs),
        outputs=tuple(shape for _, shape in u.program.outputs),
        output=imported.output,
        layers=layers,
        tuning=tuning or {},
    )


def _layer(step: Step) -> LayerSpec:
    work = step.work
    return LayerSpec(step.layer, step.title, step.kernel.name, work.dense_macs, work.macs, work.bytes, work.packing)
