"""Files of results: JSON that says its format, written whole or not at all, and refused by name where it is another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from monstera.sparsity.files import write_atomically

T = TypeVar("T")

_MEND = "restore the file, or remove it and have it made again"


def in_format(data: Any, form: str, make: Callable[[Mapping[str, Any]], T]) -> T:
    """Return what `make` makes of `data`, once that is known to be of the format `form`.

    Raises:
        ValueError: `data` is of another format, or `make` misses a field, meets one that it does not know, or refuses.
    """
    found = data.get("format") if isinstance(data, Mapping) else None
    if found != form:
        raise ValueError(f"expected a result of format {form!r}, got {found!r}")
    try:
        return make(data)
    except (KeyError, TypeError) as reason:
        raise ValueError(f"a result of format {form!r} is incomplete or has unknown fields: {reason}") from reason


def read_json(path: str | os.PathLike[str], make: Callable[[Any], T]) -> T:
    """Return what `make` makes of the JSON in the file at `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or `make` refuses it; the message names the file.
    """
    try:
        return make(json.loads(Path(path).read_text(encoding="utf-8")))
    except json.JSONDecodeError as reason:
        raise ValueError(f"{os.fspath(path)}: not JSON ({reason}); {_MEND}") from reason
    except ValueError as reason:
        raise ValueError(f"{os.fspath(path)}: {reason}; {_MEND}") from reason


def write_json(data: Any, path: str | os.PathLike[str]) -> None:
    """Write `data` to `path` as indented JSON; the folder is made, and the file is there whole or not at all.

    Raises:
        ValueError: `data` holds NaN or an infinity, which JSON has no word for.
    """
    write_atomically(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())
