"""A compiled program as a file: whether it is sound, and what it is, for the terminal. Runs none of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rich.console import Group
from rich.table import Table
from rich.text import Text

from monstera.runtime import ArtifactError, Manifest, ProgramSpec, open_artifact
from monstera.runtime.artifact import GRAPH, Opened
from monstera.runtime.verify import facts, verified


def checks(path: str | os.PathLike[str], sha256: str | None = None) -> Iterator[str]:
    """Yield a sentence for each check that an artifact passes, or that could not be made here.

    Raises:
        FileNotFoundError: there is no such file.
        ArtifactError: at the first check that it does not pass.
        ValueError: `sha256` is not 64 hexadecimal digits.
    """
    opened = open_artifact(path, sha256)
    yield f"digest {opened.digest}" + (", as expected" if sha256 else "")
    text, params = yield from verified(opened)
    try:
        from monstera.compiler.graph_file import read_graphs
        from monstera.compiler.ir.check import GraphError
    except ImportError as error:
        yield f"{GRAPH}: not checked against the rules of the operators: that takes the compiler ({error})"
        return
    try:
        graphs = read_graphs(text, params)
    except GraphError as error:
        raise ArtifactError(f"{opened.where}: {error}") from error
    programs = opened.manifest.programs
    if [tuple(shape for _, shape in graph.inputs) for graph in graphs] != [program.shapes for program in programs]:
        raise ArtifactError(f"{opened.where}: {GRAPH} holds graphs of other inputs than the manifest's programs")
    for graph in graphs:
        yield f"{GRAPH}: {len(graph.nodes)} nodes whose shapes follow from each other, {len(graph.params)} parameters"


def description(opened: Opened) -> Group:
    """What an artifact is: signature, machine, parts and layers, as tables for rich."""
    manifest = opened.manifest
    known = facts(opened)
    parts = _table("part", "bytes", "SHA-256")
    for name, part in known["parts"].items():
        parts.add_row(name, f"{part['bytes']:,}", f"{part['sha256'][:16]}...")
    programs = (part for i, p in enumerate(manifest.programs) for part in _program(i, p))
    return Group(_summary(manifest, known["digest"], known["lacks"]), parts, *programs)


def _program(index: int, program: ProgramSpec) -> tuple[Table, Table]:
    """The signature and the layers of a program."""
    signature = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows = {
        f"shape {index}": f"arena {4 * program.arena_floats:,} bytes",
        **{f"input {i.name}": f"{i.dtype} {list(i.shape)}" for i in program.inputs},
        **{f"output {i}": f"float32 {list(shape)}" for i, shape in enumerate(program.outputs)},
    }
    for name, value in rows.items():
        signature.add_row(_plain(name), _plain(value))
    layers = _table("layer", "what", "kernel", "MMAC dense", "MMAC", "MB")
    for p in program.layers:
        macs = f"{p.dense_macs / 1e6:.2f}", f"{p.macs / 1e6:.2f}"
        layers.add_row(*map(_plain, (p.layer, p.title, p.kernel)), *macs, f"{p.bytes / 1e6:.2f}")
    return signature, layers


def _summary(manifest: Manifest, digest: str, lacks: str) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    held = manifest.weight_bytes + manifest.tap_bytes
    rows = {
        "digest": digest,
        "target": f"{manifest.target}, {manifest.threads} thread(s), on {manifest.platform}",
        "needs": ", ".join(manifest.features) or "nothing else",
        "here": lacks or "runs on this machine",
        "compiled by": f"{manifest.compiler} {' '.join(manifest.flags)}",
        "memory": f"arena {4 * manifest.arena_floats:,} bytes a caller, weights {held:,} bytes",
        "tuned": f"{len(manifest.tuning)} layers",
        "shapes": f"{len(manifest.programs)}",
    }
    for name, value in rows.items():
        table.add_row(_plain(name), _plain(value))
    return table


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        number = column in ("bytes", "MMAC dense", "MMAC", "MB")
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def _plain(text: str) -> Text:
    """Names come from the file: a terminal must not take them for orders."""
    return Text("".join(c if c.isprintable() else "?" for c in text))
