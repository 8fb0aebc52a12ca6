"""From optimised graphs to an engine: programs, weights, manifest, C, library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monstera.compiler.build import build
from monstera.compiler.describe import manifest_of
from monstera.compiler.emit import emit
from monstera.compiler.frontends import Imported, UnsupportedError
from monstera.compiler.graph_file import pack_graphs
from monstera.compiler.linking import link
from monstera.compiler.lowering import Lowered, lower_with
from monstera.compiler.lowering.choice import Cut
from monstera.compiler.program import Program
from monstera.compiler.targets import Target
from monstera.compiler.tuning import Table
from monstera.runtime import Artifact, Engine, Seal, assemble, pack_tensors


def compile_graphs(imported: Sequence[Imported], target: Target, threads: int, table: Table) -> Engine:
    """Compile optimised graphs into one library, layers of the table as it says and others by the model of their cost.

    The graphs are one network at several shapes; layers of the first say how rows are cut into blocks for the others.

    Raises:
        UnsupportedError: a tensor has a form that no kernel takes, or is too large for their offsets.
        BuildError: no C compiler for this target, or its cache cannot be written.
    """
    lowered: list[Lowered] = []
    cuts: Mapping[str, Cut] = {}
    for each in imported:
        lowered.append(lower_by(each, target, threads, table, cuts))
        _check_sizes(lowered[-1].program)
        cuts = lowered[-1].cuts
    linked = link([each.program for each in lowered])
    weights = pack_tensors(linked.tables)
    keys = {key for each in lowered for key in each.cases}
    manifest = manifest_of(imported, linked.units, target, threads, table.of(keys), linked.tap_bytes)
    source = emit(linked.units, target, threads, Seal.of(manifest, weights), linked.taps)
    library = build(source, target)
    text, params = pack_graphs([each.graph for each in imported])
    artifact = Artifact(manifest, weights, source.encode(), library.read_bytes(), text, lambda: params)
    return assemble(artifact, library)


def lower_by(imported: Imported, target: Target, threads: int, table: Table, cuts: Mapping[str, Cut]) -> Lowered:
    """Lower an optimised graph by the choices of a table.

    Raises:
        UnsupportedError: a tensor has a form that no kernel takes.
    """
    choices = {key: [choice] for key, choice in table.choices.items()}
    return lower_with(imported.graph, target, threads, choices, cuts=cuts)


def _check_sizes(program: Program) -> None:
    """Kernels count in 32 bits what lies between two elements of a buffer or a table; beyond, they would go astray."""
    sizes = {**program.buffers, **{name: table.size for name, table in program.tables.items()}}
    largest = max(sizes, key=lambda name: sizes[name], default="")
    if sizes.get(largest, 0) >= 2**31:
        raise UnsupportedError(
            f"{largest!r} takes {sizes[largest]} floats with its pads; kernels count up to {2**31 - 1}: "
            "compile for a smaller batch"
        )
