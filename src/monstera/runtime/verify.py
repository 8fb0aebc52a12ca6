"""Checks an artifact without running any of it, part by part; and says what it is as plain values."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from monstera.runtime.artifact import GRAPH, LIBRARY, PARAMS, PARTS, SOURCE, WEIGHTS, Opened
from monstera.runtime.library import Seal
from monstera.runtime.machine import shortfall
from monstera.runtime.manifest import VERSION, ArtifactError
from monstera.runtime.strict_json import encoded
from monstera.runtime.tensors import TensorFileError, tables_of


def verified(opened: Opened) -> Generator[str, None, tuple[bytes, np.ndarray]]:
    """Yield a sentence for each check that an opened artifact passes, and return its graph and the graph's parameters.

    The library is looked at and not loaded, as loading it would run it. Whether the graph is one is for the compiler.
    Every part is read once.

    Raises:
        ArtifactError: at the first check that it does not pass.
    """
    manifest, where, graph = opened.manifest, opened.where, {}
    seal = str(Seal(manifest.description_sha256(), manifest.sha256[WEIGHTS])).encode()
    yield f"container and manifest: format version {VERSION}, every byte as Monstera writes it"
    for name in PARTS[1:]:
        part = opened.read(name)
        yield f"{name}: {len(part)} bytes, their checksum is the manifest's"
        if name in (WEIGHTS, PARAMS):
            try:
                tables = tables_of(part)
            except TensorFileError as error:
                raise ArtifactError(f"{where}: {name}: {error}") from error
            size = sum(table.nbytes for table in tables.values())
            if name == WEIGHTS and size != manifest.weight_bytes:
                raise ArtifactError(f"{where}: {name} holds {size} bytes, the manifest says {manifest.weight_bytes}")
            yield f"{name}: {len(tables)} tables that cover {size} bytes exactly"
        if name in (SOURCE, LIBRARY):
            if seal not in part.tobytes():
                raise ArtifactError(f"{where}: {name} was made for another manifest or other weights")
            yield f"{name}: made for this manifest and these weights"
        if name in (GRAPH, PARAMS):
            graph[name] = part
    return graph[GRAPH].tobytes(), graph[PARAMS]


def facts(opened: Opened) -> dict[str, Any]:
    """Return what an artifact is as plain JSON values: digest, parts, whether it runs here, and its manifest."""
    manifest = opened.manifest
    parts = {name: {"bytes": place.size, "sha256": manifest.sha256.get(name)} for name, place in opened.index.items()}
    return {
        "digest": opened.digest,
        "format_version": VERSION,
        "parts": {name: {**part, "sha256": part["sha256"] or opened.digest} for name, part in parts.items()},
        "lacks": shortfall(manifest.platform, manifest.features),
        "manifest": encoded(manifest),
    }
