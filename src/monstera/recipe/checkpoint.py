"""Checkpoints of a run: whole or not there, loaded without unpickling code."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from monstera.sparsity.files import write_atomically


class CheckpointError(ValueError):
    """A checkpoint is damaged or belongs to another recipe."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; a run that is killed meanwhile keeps the checkpoint before."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Read a checkpoint, or None where there is none.

    Raises:
        CheckpointError: it is damaged, or of a recipe that trains something else.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({error}); remove it to start again") from None
    if not isinstance(state, dict) or state.get("fingerprint") != fingerprint:
        raise CheckpointError(
            f"{path}: the checkpoint of another recipe; give this recipe another name, or start afresh (fresh=True)"
        )
    return state
