"""Files appear whole or not at all, those of tensors among them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write to a temporary name beside `path`, then rename; the directory is made. A failure leaves nothing behind."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes the file private; give it the permissions that open() would have.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_tensors(
    tensors: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors of any layout, such as a `state_dict`, to a safetensors file, whole or not at all.

    The same tensors give the same bytes if `metadata` has one entry at most: safetensors writes more in random order.

    Raises:
        RuntimeError: two of them share memory.
    """
    contiguous = {name: value.detach().contiguous() for name, value in tensors.items()}
    write_atomically(path, safetensors.torch.save(contiguous, dict(metadata or {}) or None))


def tensors_digest(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """Return the SHA-256, in hexadecimal digits, of tensors by name and of the text `about` before them.

    Names, types, shapes and every bit of the values count; order, memory layout and device do not.
    """
    digest = hashlib.sha256(json.dumps([about, len(tensors)]).encode())
    for name, value in sorted(tensors.items(), key=lambda item: item[0]):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        # As bytes, since numpy does not know all types that torch has.
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
