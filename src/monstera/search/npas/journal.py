"""The journal of a search: JSON lines that are only ever added to, from which a killed search goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Any

from monstera.locks import lock
from monstera.search.differences import differences

Record = dict[str, Any]


class JournalError(ValueError):
    """A journal is damaged, belongs to another search, or is being written by another process."""


@dataclass(frozen=True, slots=True)
class Journal:
    """An open journal.

    Attributes:
        path: of the file.
        records: what it held when it was opened, behind the header.
    """

    path: Path
    records: tuple[Record, ...]
    _file: BufferedRandom

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line. When this returns, it is on the disk."""
        self._file.write(_line(record))
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def opened(path: Path, header: Mapping[str, Any]) -> Iterator[Journal]:
    """Open a journal, for this process alone, or begin one with the header.

    A last line without its end is what a killed process was writing, and is cut off.

    Raises:
        JournalError: it is damaged, has another header, or another process has it open.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if not lock(file, wait=False):
            raise JournalError(f"{path}: another process is searching with this journal; give one of its own")
        records = _read(path, file)
        expected = json.loads(_line(header))
        journal = Journal(path, tuple(records[1:]), file)
        if not records:
            journal.append(header)
        elif records[0] != expected:
            raise JournalError(f"{path}: of another search; {differences(records[0], expected)}; give another path")
        yield journal


def _read(path: Path, file: BufferedRandom) -> list[Record]:
    file.seek(0)
    text = file.read()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        file.truncate(whole)
    records = []
    for number, line in enumerate(text[:whole].splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise JournalError(f"{path}: line {number} is not JSON ({error}); remove the file to begin anew") from None
        if not isinstance(record, dict):
            raise JournalError(f"{path}: line {number} is {record!r:.40}, no record; remove the file to begin anew")
        records.append(record)
    return records


def _line(record: Mapping[str, Any]) -> bytes:
    return f"{json.dumps(record, allow_nan=False)}\n".encode()
