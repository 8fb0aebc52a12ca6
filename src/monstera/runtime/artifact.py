"""The file `net.monstera`: manifest, weights, C source, library, and the graph it can be compiled from anew. No pickle.

`docs/artifact.md` describes every byte. Checksums find damage, not malice: an artifact is executable code. Load only
what you trust, or say which one you expect by its digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monstera.runtime.container import ContainerError, File, Stored, read_index, read_part, write_parts
from monstera.runtime.manifest import VERSION, ArtifactError, Manifest, read_manifest

MANIFEST = "manifest.json"
WEIGHTS, SOURCE, LIBRARY, GRAPH, PARAMS = "weights.safetensors", "net.c", "net.so", "graph.json", "graph.safetensors"
PARTS = (MANIFEST, WEIGHTS, SOURCE, LIBRARY, GRAPH, PARAMS)


@dataclass(frozen=True, slots=True)
class Artifact:
    """The parts of an engine. `weights` is the safetensors file as uint8 that starts on a 64-byte line.

    `graph` and what `params` gives are what the compiler made the rest of. Nothing else needs the parameters, so those
    of a loaded artifact are read when they are asked for.
    """

    manifest: Manifest
    weights: np.ndarray
    source: bytes
    library: bytes
    graph: bytes
    params: Callable[[], np.ndarray]

    def sealed(self) -> Manifest:
        """The manifest with the checksums of all parts."""
        if self.manifest.sha256:
            return self.manifest
        return replace(self.manifest, sha256={name: _sha256(data) for name, data in self.parts().items()})

    def parts(self) -> dict[str, Any]:
        """All parts but the manifest, as they are written.

        Raises:
            ArtifactError: the file they were read from has changed.
        """
        return dict(zip(PARTS[1:], (self.weights, self.source, self.library, self.graph, self.params()), strict=True))


@dataclass(frozen=True, slots=True)
class Opened:
    """A file whose container and manifest are checked; parts are read, and then checked, when they are asked for."""

    where: str
    file: File
    index: dict[str, Stored]
    manifest: Manifest
    digest: str

    def read(self, name: str) -> np.ndarray:
        """Return a part as uint8 on a 64-byte line.

        Raises:
            ArtifactError: it is damaged.
        """
        try:
            data = read_part(self.file, self.index[name])
        except (ContainerError, OSError) as error:
            raise ArtifactError(f"{self.where}: {name} cannot be read: {error}; get the file again") from error
        if _sha256(data) != self.manifest.sha256[name]:
            raise ArtifactError(
                f"{self.where}: {name} is damaged: its checksum is not the manifest's; get the file again"
            )
        return data


def write_artifact(artifact: Artifact, path: str | os.PathLike[str]) -> None:
    """Write an artifact; a file that was there is replaced in one step or not at all.

    Raises:
        OSError: the folder does not exist or cannot be written.
        ArtifactError: the artifact was loaded from a file that has changed since.
    """
    path = Path(path)
    parts = {MANIFEST: artifact.sealed().to_json(), **artifact.parts()}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write_parts(file, parts)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def open_artifact(path: str | os.PathLike[str], sha256: str | None = None) -> Opened:
    """Open an artifact, for whatever machine it was made: check container and manifest, read no other part.

    Args:
        sha256: the digest it must have; nothing of the manifest is interpreted before it is compared.

    Raises:
        FileNotFoundError: there is no such file.
        ArtifactError: not an artifact, damaged, of another version, or another one than expected.
        ValueError: `sha256` is not 64 hexadecimal digits.
    """
    if sha256 is not None and (len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef")):
        raise ValueError(f"sha256 must be 64 hexadecimal digits, as `monstera inspect` prints them, got {sha256!r:.80}")
    where = str(path)
    try:
        file = File(path)
        index = read_index(file, PARTS)
        text = read_part(file, index[MANIFEST])
    except ContainerError as error:
        raise ArtifactError(
            f"{where}: not a Monstera artifact of format version {VERSION}, or damaged: {error}"
        ) from error
    digest = _sha256(text)
    if sha256 is not None and digest != sha256.lower():
        raise ArtifactError(
            f"{where}: its digest (the SHA-256 of its manifest, see `monstera inspect`) is {digest}, "
            f"expected {sha256.lower()}: this is another file than the one you trust"
        )
    manifest = read_manifest(text.tobytes(), where)
    if manifest.sha256.keys() != set(PARTS[1:]):
        raise ArtifactError(f"{where}: the manifest is damaged: it has checksums of {sorted(manifest.sha256)[:8]}")
    return Opened(where, file, index, manifest, digest)


def read_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Read an artifact, for whatever machine it was made, and check what is read: all but the graph's parameters.

    Raises:
        FileNotFoundError, ArtifactError: as for `open_artifact`.
    """
    return artifact_of(open_artifact(path))


def artifact_of(opened: Opened) -> Artifact:
    """Read the parts of an opened artifact.

    Raises:
        ArtifactError: one is damaged.
    """
    source, library, graph = (opened.read(name).tobytes() for name in (SOURCE, LIBRARY, GRAPH))
    return Artifact(opened.manifest, opened.read(WEIGHTS), source, library, graph, partial(opened.read, PARAMS))


def _sha256(data: Any) -> str:
    return hashlib.sha256(memoryview(data)).hexdigest()
