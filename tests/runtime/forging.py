"""Artifacts taken apart, changed and put together again, with checksums that fit: what a forger would do."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import fields

from monstera.runtime import ProgramSpec
from monstera.runtime.container import write_parts
from monstera.runtime.strict_json import canonical_json

_OF_PROGRAMS = {field.name for field in fields(ProgramSpec)}


def parts_of(artifact: bytes) -> dict[str, bytes]:
    """The parts by name, read by Python's own zip reader."""
    with zipfile.ZipFile(io.BytesIO(artifact)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def joined(parts: Mapping[str, bytes]) -> bytes:
    """A container of any parts."""
    file = io.BytesIO()
    write_parts(file, parts)
    return file.getvalue()


def forged(artifact: bytes, changes: Mapping[str, object] | None = None, **parts: bytes) -> bytes:
    """The artifact with changed fields of the manifest and changed parts ("net.c" is `net_c`), and right checksums.

    Fields that programs have are changed in the first.
    """
    found = parts_of(artifact)
    manifest = json.loads(found["manifest.json"])
    for name in list(found):
        found[name] = parts.get(name.replace(".", "_"), found[name])
    manifest["sha256"] = {n: hashlib.sha256(d).hexdigest() for n, d in found.items() if n != "manifest.json"}
    for name, value in (changes or {}).items():
        (manifest["programs"][0] if name in _OF_PROGRAMS else manifest)[name] = value
    found["manifest.json"] = canonical_json(manifest)
    return joined(found)
