"""Many graphs in one C file, so that random testing does not wait for the compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from monstera.compiler.build import build
from monstera.compiler.describe import manifest_of
from monstera.compiler.emit import emit, unit
from monstera.compiler.frontends import Imported
from monstera.compiler.lowering import lower
from monstera.compiler.passes import optimize
from monstera.compiler.targets import Target, native
from monstera.runtime import library
from monstera.runtime.tensors import data_of, pack_tensors

Runner = library.Library

narrower = pytest.mark.skipif(native().name != "avx512", reason="the avx2 code is the native one here, or cannot run")
"""For tests of the avx2 code where the native code is another."""


def compile_batch(
    imported: Sequence[Imported], threads: int = 1, target: Target | None = None, optimized: bool = True
) -> list[library.Library]:
    """One library for all graphs; the answer runs them one by one."""
    target = target or native()
    graphs = [optimize(i.graph) if optimized else i.graph for i in imported]
    units = [unit(lower(graph, target, threads), f"net{i}") for i, graph in enumerate(graphs)]
    path = build(emit(units, target, threads), target)
    return [
        library.Library(path, manifest_of([i], [u], target, threads), data_of(pack_tensors(u.program.tables)), u.prefix)
        for i, u in zip(imported, units, strict=True)
    ]


def run(runner: library.Library, imported: Imported, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs, into memory that held NaN before."""
    shapes = imported.graph.shapes()
    outputs = [np.full(shapes[name], np.nan, np.float32) for name in imported.graph.outputs]
    runner.run([np.ascontiguousarray(inputs[i.name]) for i in imported.inputs], outputs)
    return outputs


def poison_arenas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill every new arena with NaN: what a program reads before it writes shows."""

    def poisoned(size: int) -> np.ndarray:
        memory = aligned_empty(size)
        memory[:] = 0xFF
        return memory

    aligned_empty = library.aligned_empty
    monkeypatch.setattr(library, "aligned_empty", poisoned)
