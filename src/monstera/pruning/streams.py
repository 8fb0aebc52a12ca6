"""Random numbers that depend on what they are for and on nothing else."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, purpose: str, index: int) -> torch.Generator:
    """A generator of its own for each (seed, purpose, index), so that any step can be drawn without those before it."""
    # A hash, because torch's generator looks at 32 bits of its seed only: packed bit fields would collide.
    digest = hashlib.sha256(f"{seed} {purpose} {index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
