"""The container of an artifact: a zip whose every byte follows from names and contents of its parts.

Nothing in it can say two things: a file that differs in one bit from what `write_parts` writes is refused, by
`read_index` or by `read_part`. Sizes are always in the 64-bit fields of zip, parts are stored as they are, and all of
them bear the date at which zip begins.
"""

from __future__ import annotations

import os
import stat
import struct
import weakref
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from monstera.runtime.memory import aligned_empty

_LOCAL = struct.Struct("<4s5H3I2H")
_LOCAL_SIZES = struct.Struct("<2H2Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_CENTRAL_SIZES = struct.Struct("<2H3Q")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")
_VERSION, _MADE_ON_UNIX, _DATE, _MODE = 45, 3 << 8 | 45, 1 << 5 | 1, 0o100644 << 16
_SHORT, _LONG = 0xFFFF, 0xFFFFFFFF


class ContainerError(ValueError):
    """The bytes are not such a container."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a part lies: its header, its first byte, how many, and their CRC-32 as zip wants it."""

    header: int
    begin: int
    size: int
    crc: int


class File:
    """A file kept open and read at given places, by any thread or forked child. It may be replaced or removed then.

    Raises:
        OSError: it cannot be opened.
        ContainerError: it is a folder, a pipe, a device.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Without O_NONBLOCK, opening a pipe would wait for a writer.
        self._handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._handle)
        status = os.fstat(self._handle)
        if not stat.S_ISREG(status.st_mode):
            raise ContainerError("it is not a regular file")
        self.size = status.st_size

    def read(self, begin: int, size: int) -> np.ndarray:
        """Return bytes as uint8 on a 64-byte line, read in one go to where they stay.

        Raises:
            ContainerError: the file ends before.
        """
        if begin + size > self.size:
            raise ContainerError(f"it is cut short: {size} bytes from {begin} on, in {self.size} bytes")
        data = aligned_empty(size)
        view, done = data.data, 0
        while done < size:
            count = os.preadv(self._handle, [view[done:]], begin + done)
            if not count:
                raise ContainerError(f"it ended at byte {begin + done} while it was read")
            done += count
        return data


def write_parts(file: BinaryIO, parts: Mapping[str, Any]) -> None:
    """Write parts (anything with a buffer) in their order."""
    index: dict[str, Stored] = {}
    end = 0
    for name, data in parts.items():
        view = memoryview(data).cast("B")
        header = _local(name, len(view), zlib.crc32(view))
        index[name] = Stored(end, end + len(header), len(view), zlib.crc32(view))
        file.write(header)
        file.write(view)
        end = index[name].begin + len(view)
    file.write(_directory(index, end))


def read_index(file: File, names: Iterable[str]) -> dict[str, Stored]:
    """Return where the parts lie, which have exactly these names, in this order.

    Raises:
        ContainerError: the file is anything else than `write_parts` writes.
    """
    index: dict[str, Stored] = {}
    end = 0
    for name in names:
        found = file.read(end, _LOCAL.size + len(name) + _LOCAL_SIZES.size).tobytes()
        size, crc = _LOCAL_SIZES.unpack(found[-_LOCAL_SIZES.size :])[2], _LOCAL.unpack(found[: _LOCAL.size])[6]
        if found != _local(name, size, crc):
            raise ContainerError(f"expected the part {name} at byte {end}")
        index[name] = Stored(end, end + len(found), size, crc)
        end += len(found) + size
    directory = _directory(index, end)
    if file.read(end, len(directory)).tobytes() != directory or file.size != end + len(directory):
        raise ContainerError("its end is not the directory of its parts")
    return index


def read_part(file: File, place: Stored) -> np.ndarray:
    """Return a part as uint8 on a 64-byte line.

    Raises:
        ContainerError: the file ends before, or the part's CRC-32 is not that of its bytes.
    """
    data = file.read(place.begin, place.size)
    if zlib.crc32(data.data) != place.crc:
        raise ContainerError(
            f"the CRC-32 of the {place.size} bytes from {place.begin} on is not what their header says"
        )
    return data


def _local(name: str, size: int, crc: int) -> bytes:
    head = (b"PK\3\4", _VERSION, 0, 0, 0, _DATE, crc, _LONG, _LONG, len(name), _LOCAL_SIZES.size)
    return _LOCAL.pack(*head) + name.encode() + _LOCAL_SIZES.pack(1, 16, size, size)


def _directory(index: Mapping[str, Stored], begin: int) -> bytes:
    entries = b""
    for name, p in index.items():
        head = (b"PK\1\2", _MADE_ON_UNIX, _VERSION, 0, 0, 0, _DATE, p.crc, _LONG, _LONG)
        rest = (len(name), _CENTRAL_SIZES.size, 0, 0, 0, _MODE, _LONG)
        entries += _CENTRAL.pack(*head, *rest) + name.encode() + _CENTRAL_SIZES.pack(1, 24, p.size, p.size, p.header)
    count, size = len(index), len(entries)
    end = _END_64.pack(b"PK\6\6", 44, _MADE_ON_UNIX, _VERSION, 0, 0, count, count, size, begin)
    locator = _LOCATOR.pack(b"PK\6\7", 0, begin + size, 1)
    return entries + end + locator + _END.pack(b"PK\5\6", 0, 0, _SHORT, _SHORT, _LONG, _LONG, 0)
