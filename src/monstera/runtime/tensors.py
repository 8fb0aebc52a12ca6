"""A small reader and writer of safetensors files whose tensors all start on 64-byte lines.

The format has no holes, so each table is stored padded to a multiple of 64 bytes; the header is padded with spaces.
Library code addresses the data by byte offset, which is why order and padding are fixed here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import numpy as np

LINE = 64
_NAMES = {"float32": "F32", "int32": "I32", "uint16": "U16", "uint8": "U8", "int64": "I64"}


class TensorFileError(ValueError):
    """The bytes are not a weights file of ours."""


def _padded(size: int) -> int:
    return -(-size // LINE) * LINE


def offsets_of(tables: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The byte offset of each table in the data, in the mapping's order."""
    offsets, end = {}, 0
    for name, table in tables.items():
        offsets[name] = end
        end += _padded(table.nbytes)
    return offsets


def pack_tensors(tables: Mapping[str, np.ndarray]) -> bytes:
    """Return a safetensors file of one-dimensional tables, each padded with zeros to whole lines."""
    header, parts = {}, []
    for name, start in offsets_of(tables).items():
        table = np.ascontiguousarray(tables[name])
        raw = table.astype(table.dtype.newbyteorder("<"), copy=False).tobytes()
        size = _padded(len(raw))
        kind = _NAMES[table.dtype.name]
        header[name] = {"dtype": kind, "shape": [size // table.itemsize], "data_offsets": [start, start + size]}
        parts.append(raw + bytes(size - len(raw)))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (_padded(8 + len(text)) - 8 - len(text))
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def data_of(blob: bytes) -> np.ndarray:
    """Return the data of such a file as uint8 that starts on a 64-byte line (a copy).

    Raises:
        TensorFileError: the header is damaged or does not cover the data exactly.
    """
    if len(blob) < 8:
        raise TensorFileError(f"a weights file has at least 8 bytes, this one has {len(blob)}")
    (length,) = struct.unpack("<Q", blob[:8])
    if length > len(blob) - 8:
        raise TensorFileError(f"the weights file is cut short: a header of {length} bytes in {len(blob)} bytes")
    try:
        header = json.loads(blob[8 : 8 + length])
        ends = [tuple(entry["data_offsets"]) for entry in header.values()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TensorFileError(f"the weights file's header cannot be read: {error}") from error
    size = len(blob) - 8 - length
    if sorted(ends) != ends or (ends[-1][1] if ends else 0) != size:
        raise TensorFileError("the weights file's header does not match its data")
    return aligned_copy(np.frombuffer(blob, np.uint8, offset=8 + length))


def aligned_copy(data: np.ndarray) -> np.ndarray:
    """A uint8 copy that starts on a 64-byte line."""
    out = aligned_empty(data.size)
    out[:] = data
    return out


def aligned_empty(size: int) -> np.ndarray:
    """Uninitialised uint8 memory that starts on a 64-byte line."""
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size]
