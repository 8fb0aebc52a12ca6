"""Files of plain values in the folder of a run: what is there is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from monstera.sparsity.files import write_atomically

T = TypeVar("T")


def read_record(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; where there is none it is made and written, whole or not at all.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return write_record(path, make())
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); remove it to make it again") from None


def write_record(path: Path, value: T) -> T:
    """Write plain values, and return them."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())
    return value
