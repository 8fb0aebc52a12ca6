"""A small reader and writer of safetensors files whose tensors all start on 64-byte lines.

The format has no holes, so each table is stored padded to a multiple of 64 bytes; the header is padded with spaces.
Library code addresses the data by byte offset, which is why order and padding are fixed here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from monstera.runtime.memory import LINE, aligned_empty
from monstera.runtime.strict_json import decoded, parse_json

_Dtype = Literal["F32", "I32", "U16", "U8", "I64"]
_NAMES: dict[str, _Dtype] = {"float32": "F32", "int32": "I32", "uint16": "U16", "uint8": "U8", "int64": "I64"}
_ITEMSIZE = {code: np.dtype(name).itemsize for name, code in _NAMES.items()}


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: _Dtype
    shape: tuple[int, ...]
    data_offsets: tuple[int, ...]


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


def data_size(tables: Mapping[str, np.ndarray]) -> int:
    """Bytes of the data: all tables, each padded to whole lines."""
    return sum(_padded(table.nbytes) for table in tables.values())


def pack_tensors(tables: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a safetensors file of one-dimensional tables as uint8 that starts on a line, so its data does too."""
    offsets = offsets_of(tables)
    header = {name: _entry(table, offsets[name]) for name, table in tables.items()}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (_padded(8 + len(text)) - 8 - len(text))
    start = 8 + len(text)
    blob = aligned_empty(start + data_size(tables))
    blob[:start] = np.frombuffer(struct.pack("<Q", len(text)) + text, np.uint8)
    for name, table in tables.items():
        little = np.ascontiguousarray(table, table.dtype.newbyteorder("<"))
        place = blob[start + offsets[name] :][: _padded(table.nbytes)]
        place[: table.nbytes] = little.reshape(-1).view(np.uint8)
        place[table.nbytes :] = 0
    return blob


def _entry(table: np.ndarray, start: int) -> dict[str, object]:
    size = _padded(table.nbytes)
    return {"dtype": _NAMES[table.dtype.name], "shape": [size // table.itemsize], "data_offsets": [start, start + size]}


def data_of(blob: np.ndarray) -> np.ndarray:
    """Return the data of such a file: a view of `blob` (uint8), on a 64-byte line if the blob is.

    Raises:
        TensorFileError: the header is damaged or does not cover the data exactly.
    """
    return blob[_header(blob)[0] :]


def tables_of(blob: np.ndarray) -> dict[str, np.ndarray]:
    """Return the tables of such a file by name: one-dimensional views of `blob`, with the padding behind each.

    Raises:
        TensorFileError: the header is damaged or does not cover the data exactly.
    """
    start, entries = _header(blob)
    dtypes = {code: name for name, code in _NAMES.items()}
    data = blob[start:]
    return {name: data[begin:end].view(dtypes[code]) for name, (code, begin, end) in entries.items()}


def _header(blob: np.ndarray) -> tuple[int, dict[str, tuple[str, int, int]]]:
    """Where the data starts, and type, first byte and end of each table."""
    if len(blob) < 8:
        raise TensorFileError(f"a weights file has at least 8 bytes, this one has {len(blob)}")
    (length,) = struct.unpack("<Q", blob[:8].tobytes())
    if length > len(blob) - 8:
        raise TensorFileError(f"the weights file is cut short: a header of {length} bytes in {len(blob)} bytes")
    try:
        raw = decoded(Mapping[str, _Entry], parse_json(blob[8 : 8 + length].tobytes()), "header")
    except ValueError as error:
        raise TensorFileError(f"the weights file's header cannot be read: {error}") from error
    entries, end = {}, 0
    for name, entry in raw.items():
        size = _ITEMSIZE[entry.dtype] * entry.shape[0] if len(entry.shape) == 1 else -1
        if entry.data_offsets != (end, end + size) or size < 0 or size % LINE:
            raise TensorFileError(f"the weights file's header is damaged at {name!r:.60}")
        entries[name] = (entry.dtype, end, end + size)
        end += size
    if (8 + length) % LINE or end != len(blob) - 8 - length:
        raise TensorFileError("the weights file's header does not match its data")
    return 8 + length, entries
