"""From an optimised graph to an engine: program, weights, manifest, C, library."""

from __future__ import annotations

from monstera.compiler.build import build
from monstera.compiler.describe import manifest_of
from monstera.compiler.emit import emit, unit
from monstera.compiler.frontends import Imported, UnsupportedError
from monstera.compiler.graph_file import pack_graph
from monstera.compiler.lowering import lower_with
from monstera.compiler.program import Program
from monstera.compiler.targets import Target
from monstera.compiler.tuning import Table
from monstera.runtime import Artifact, Engine, Seal, assemble, pack_tensors


def compile_graph(imported: Imported, target: Target, threads: int, table: Table) -> Engine:
    """Compile an optimised graph, layers of the table as it says and all others by the model of their cost.

    Raises:
        UnsupportedError: a tensor has a form that no kernel takes, or is too large for their offsets.
        BuildError: no C compiler for this target, or its cache cannot be written.
    """
    lowered = lower_with(imported.graph, target, threads, {key: [c] for key, c in table.choices.items()})
    _check_sizes(lowered.program)
    program = unit(lowered.program)
    weights = pack_tensors(program.program.tables)
    manifest = manifest_of(imported, program, target, threads, table.of(lowered.cases))
    source = emit([program], target, threads, Seal.of(manifest, weights))
    library = build(source, target)
    text, params = pack_graph(imported.graph)
    artifact = Artifact(manifest, weights, source.encode(), library.read_bytes(), text, lambda: params)
    return assemble(artifact, library)


def _check_sizes(program: Program) -> None:
    """Kernels count in 32 bits what lies between two elements of a buffer or a table; beyond, they would go astray."""
    sizes = {**program.buffers, **{name: table.size for name, table in program.tables.items()}}
    largest = max(sizes, key=lambda name: sizes[name], default="")
    if sizes.get(largest, 0) >= 2**31:
        raise UnsupportedError(
            f"{largest!r} takes {sizes[largest]} floats with its pads; kernels count up to {2**31 - 1}: "
            "compile for a smaller batch"
        )
