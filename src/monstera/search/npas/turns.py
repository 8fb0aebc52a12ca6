"""Whose turn it is on a machine: one process measures alone, and others may train together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monstera.locks import lock, unlock


@contextmanager
def turn(path: Path | None, *, alone: bool) -> Iterator[None]:
    """Wait until nobody else has a turn by this file, or with `alone=False` nobody who is alone, and take one.

    Turns come in the order in which they were asked for, and end with the process. Without a path nobody waits.
    """
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as room, path.with_name(f"{path.name}.queue").open("a") as queue:
        # Who waits for the room keeps the head of the queue, so that no stream of trainings passes a measurement.
        lock(queue)
        lock(room, shared=not alone)
        unlock(queue)
        yield
