"""The file `net.monstera`: a zip of manifest, weights (safetensors), C source and library. No pickle anywhere.

Checksums find damage, not malice: an artifact is executable code. Load only what you trust.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import tempfile
import zipfile
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path

import numpy as np

from monstera.runtime.manifest import ArtifactError, Manifest, read_manifest
from monstera.runtime.memory import aligned_empty

_MANIFEST, _WEIGHTS, _SOURCE, _LIBRARY = "manifest.json", "weights.safetensors", "net.c", "net.so"
_PARTS = (_WEIGHTS, _SOURCE, _LIBRARY)


@dataclass(frozen=True, slots=True)
class Artifact:
    """The parts of an engine. `weights` is the safetensors file as uint8 that starts on a 64-byte line."""

    manifest: Manifest
    weights: np.ndarray
    source: bytes
    library: bytes


def write_artifact(artifact: Artifact, path: str | os.PathLike[str]) -> None:
    """Write an artifact; a file that was there is replaced in one step or not at all.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    parts = dict(zip(_PARTS, (artifact.weights.data, artifact.source, artifact.library), strict=True))
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
    manifest = replace(artifact.manifest, sha256=sums).to_json()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in {_MANIFEST: manifest, **parts}.items():
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Read an artifact, for whatever machine it was made, and check that it is whole.

    Raises:
        FileNotFoundError: there is no such file.
        ArtifactError: not an artifact, damaged, or of a newer version.
    """
    where = str(path)
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                manifest, parts = _parts(archive, file, where)
        except ArtifactError:
            raise
        except Exception as error:  # a damaged zip raises a dozen kinds of error
            raise ArtifactError(f"{where}: not a Monstera artifact, or damaged: {error}") from error
    for name, data in parts.items():
        if hashlib.sha256(data.data).hexdigest() != manifest.sha256.get(name):
            raise ArtifactError(f"{where}: {name} is damaged: its checksum is not the manifest's; get the file again")
    return Artifact(manifest, parts[_WEIGHTS], parts[_SOURCE].tobytes(), parts[_LIBRARY].tobytes())


def _parts(archive: zipfile.ZipFile, file: BufferedReader, where: str) -> tuple[Manifest, dict[str, np.ndarray]]:
    names = archive.namelist()
    if sorted(names) != sorted([_MANIFEST, *_PARTS]):
        raise ArtifactError(f"{where}: not a Monstera artifact; it holds {', '.join(names[:8]) or 'nothing'}")
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise ArtifactError(f"{where}: not a Monstera artifact: its parts are compressed")
    manifest = read_manifest(archive.read(_MANIFEST), where)
    return manifest, {name: _stored(file, archive.getinfo(name)) for name in _PARTS}


def _stored(file: BufferedReader, member: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of a member as they lie in the file, read in one go to where they stay.

    Not through `zipfile`, whose own checksum and copies would take longer than ours.
    """
    file.seek(member.header_offset)
    header = file.read(30)
    lengths = struct.unpack("<HH", header[26:])
    begin = member.header_offset + len(header) + sum(lengths)
    if header[:4] != b"PK\3\4" or member.file_size > os.fstat(file.fileno()).st_size - begin:
        raise ValueError(f"{member.filename} is cut short")
    data = aligned_empty(member.file_size)
    file.seek(begin)
    file.readinto(data.data)
    return data
