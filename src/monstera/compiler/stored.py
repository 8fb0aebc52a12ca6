"""Compiles what an artifact holds anew: its graph, checked, takes the way of every other graph to an engine."""

from __future__ import annotations

import numpy as np

from monstera.compiler.assembly import compile_graphs
from monstera.compiler.frontends import Imported, UnsupportedError
from monstera.compiler.graph_file import read_graphs
from monstera.compiler.ir import Graph
from monstera.compiler.ir.check import GraphError
from monstera.compiler.targets import TARGETS
from monstera.compiler.tuning import Table, table_of
from monstera.runtime import ArtifactError, Engine, Manifest, Opened, ProgramSpec
from monstera.runtime.artifact import GRAPH, PARAMS


def rebuilt(opened: Opened) -> Engine:
    """Return a new engine for an artifact's graphs; its library, its C source and its packed weights are not read.

    Of the manifest it takes signatures, target, threads and tuning.

    Whatever graph and manifest say, the code is the compiler's own: at worst it computes something else, in memory of
    its own. How long that takes is for the graph to say.

    Raises:
        ArtifactError: graph or tuning are damaged, do not fit the manifest, or take more memory than there is.
        BuildError: the C compiler is missing or failed.
    """
    manifest, where = opened.manifest, opened.where
    if manifest.target not in TARGETS:
        raise ArtifactError(f"{where}: there is no target {manifest.target!r:.40}; known: {', '.join(TARGETS)}")
    try:
        imported = _imported(manifest, opened.read(GRAPH).tobytes(), opened.read(PARAMS))
        return compile_graphs(imported, TARGETS[manifest.target], manifest.threads, _table(manifest))
    except (GraphError, UnsupportedError) as error:
        raise ArtifactError(f"{where}: {error}") from error
    except MemoryError as error:
        raise ArtifactError(f"{where}: the graph asks for more memory than there is") from error


def _imported(manifest: Manifest, text: bytes, params: np.ndarray) -> list[Imported]:
    graphs = read_graphs(text, params)
    if len(graphs) != len(manifest.programs):
        raise GraphError(f"there are {len(graphs)} graphs for the {len(manifest.programs)} programs of the manifest")
    return [_of(program, graph) for program, graph in zip(manifest.programs, graphs, strict=True)]


def _of(program: ProgramSpec, graph: Graph) -> Imported:
    shapes = graph.shapes()
    if tuple(shapes[name] for name in graph.outputs) != program.outputs:
        raise GraphError("the graph's outputs have other shapes than the manifest says")
    try:
        return Imported(graph, program.inputs, dict(program.output))
    except ValueError as error:
        raise GraphError(f"graph and manifest do not belong together: {error}") from error


def _table(manifest: Manifest) -> Table:
    try:
        return table_of(manifest.tuning)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GraphError(f"the tuning is damaged: {error!r}") from error
