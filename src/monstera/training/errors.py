"""What can go wrong in a training."""

from __future__ import annotations


class DivergedError(RuntimeError):
    """The loss of a training, or its gradient, became infinite or NaN."""
