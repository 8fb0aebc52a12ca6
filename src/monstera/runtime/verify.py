"""Checks an artifact without running any of it, part by part; and says what it is as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monstera.runtime.artifact import LIBRARY, PARAMS, PARTS, SOURCE, WEIGHTS, Opened
from monstera.runtime.library import Seal
from monstera.runtime.machine import shortfall
from monstera.runtime.manifest import VERSION, ArtifactError
from monstera.runtime.strict_json import encoded
from monstera.runtime.tensors import TensorFileError, tables_of


def verified(opened: Opened) -> Iterator[str]:
    """Yield a sentence for each check that an opened artifact passes.

    The library is looked at and not loaded, as loading it would run it. Whether the graph is one is for the compiler.

    Raises:
        ArtifactError: at the first check that it does not pass.
    """
    manifest, where = opened.manifest, opened.where
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
    seal = str(Seal(manifest.description_sha256(), manifest.sha256[WEIGHTS])).encode()
    for name in (SOURCE, LIBRARY):
        if seal not in opened.read(name).tobytes():
            raise ArtifactError(f"{where}: {name} was made for another manifest or other weights")
        yield f"{name}: made for this manifest and these weights"


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
