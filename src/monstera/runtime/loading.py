"""An engine from a file, or from the parts of an artifact: checked, mapped and put together."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from monstera.runtime.artifact import WEIGHTS, Artifact, Opened, artifact_of, open_artifact
from monstera.runtime.engine import Engine
from monstera.runtime.library import Library, Seal
from monstera.runtime.machine import shortfall
from monstera.runtime.manifest import ArtifactError
from monstera.runtime.memory import aligned_empty
from monstera.runtime.tensors import TensorFileError, data_of


def load(path: str | os.PathLike[str], *, sha256: str | None = None) -> Engine:
    """Load an engine that `Engine.save` wrote, as it is: `monstera.load` without `rebuild`.

    Raises:
        FileNotFoundError, ArtifactError, ValueError: as for `open_here`.
    """
    opened = open_here(path, sha256)
    artifact = artifact_of(opened)
    # The file may go once it is mapped; a private folder keeps others from swapping it before.
    with tempfile.TemporaryDirectory(prefix="monstera-") as folder:
        library = Path(folder) / "net.so"
        library.write_bytes(artifact.library)
        return assemble(artifact, library, where=str(path))


def open_here(path: str | os.PathLike[str], sha256: str | None = None) -> Opened:
    """Open an artifact that was made for such a machine as this.

    Raises:
        ArtifactError: made for another machine, or as for `open_artifact`.
        FileNotFoundError, ValueError: as for `open_artifact`.
    """
    opened = open_artifact(path, sha256)
    manifest = opened.manifest
    if lack := shortfall(manifest.platform, manifest.features):
        raise ArtifactError(f"{path}: made for {manifest.target}: {lack}; compile the model for this machine")
    return opened


def assemble(artifact: Artifact, library: Path, where: str = "the engine") -> Engine:
    """Put an engine together from its parts and a library on disk, which is not touched where it cannot run.

    Raises:
        ArtifactError: the parts do not belong together.
    """
    if shortfall(artifact.manifest.platform, artifact.manifest.features):
        return Engine(artifact, None)
    # Of an engine just compiled nothing is known but by construction.
    sums = artifact.manifest.sha256
    seal = Seal(artifact.manifest.description_sha256(), sums[WEIGHTS]) if sums else None
    try:
        artifact, weights = _in_memory(artifact)
        return Engine(artifact, Library(library, artifact.manifest, weights, seal=seal))
    except (TensorFileError, ArtifactError) as error:
        raise ArtifactError(f"{where}: {error}") from error


def _in_memory(artifact: Artifact) -> tuple[Artifact, np.ndarray]:
    """The artifact and the data of its weights, with room behind for the tables that are made of them."""
    size, room = artifact.weights.size, artifact.manifest.tap_bytes
    begin = size - data_of(artifact.weights).size
    if not room:
        return artifact, artifact.weights[begin:]
    try:
        whole = aligned_empty(size + room)
    except (MemoryError, OSError) as error:
        raise ArtifactError(f"no memory for {room} bytes of tables that are made of others") from error
    whole[:size] = artifact.weights
    return replace(artifact, weights=whole[:size]), whole[begin:]
