"""Locks on files, by which processes take turns; one ends with its process, however that ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def lock(file: IO[Any], *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file until it is closed or unlocked, and return whether that was done.

    Args:
        shared: beside others that share it, instead of alone.
        wait: for others; with False nothing is done where they are in the way.

    Raises:
        RuntimeError: this system has no such locks.
    """
    fcntl = _fcntl(file)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def unlock(file: IO[Any]) -> None:
    """Give up the lock of an open file.

    Raises:
        RuntimeError: this system has no such locks.
    """
    fcntl = _fcntl(file)
    fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the file at `path`, which is made where it is missing; give whether this process has it.

    Args:
        shared: beside others that share it, instead of alone.
        wait: for others; with False the answer is False where they have it.

    Raises:
        RuntimeError: this system has no such locks.
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        yield lock(file, shared=shared, wait=wait)


def _fcntl(file: IO[Any]) -> Any:
    try:
        import fcntl
    except ImportError:
        raise RuntimeError(
            f"{file.name}: processes share work by locks of Linux and macOS, which this one has not; use one of these"
        ) from None
    return fcntl
