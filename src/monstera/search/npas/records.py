"""The folder of a run and its files of plain values: what is there is not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from monstera.measure import this_machine
from monstera.search.differences import differences
from monstera.search.npas.settings import NpasSettings, Split
from monstera.search.npas.training import Examples
from monstera.sparsity.files import write_atomically

T = TypeVar("T")
FORMAT = "monstera.npas.1"


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


def claim(place: Path, model: nn.Module, split: Split, settings: NpasSettings) -> None:
    """Take the folder for this run.

    Raises:
        ValueError: it is of another one.
    """
    asked = {
        "format": FORMAT,
        "settings": asdict(settings),
        "network": _digest(model.state_dict()),
        "data": {name: _digest({"x": part.images, "y": part.labels}) for name, part in _parts(split).items()},
    }
    path, asked = place / "run.json", plain(asked)
    found = read_record(path, lambda: asked | circumstances())
    if told := differences({name: found.get(name) for name in asked}, asked):
        raise ValueError(f"{path}: of another run ({told}); give another folder")


def plain(value: Any) -> Any:
    """Nested values as JSON gives them back: tuples are lists there."""
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def circumstances() -> dict[str, Any]:
    """The day, and the machine with its software."""
    return {"date": datetime.now(timezone.utc).date().isoformat(), "machine": plain(asdict(this_machine()))}


def _parts(split: Split) -> dict[str, Examples]:
    return {"train": split.train, "held_out": split.held_out, "test": split.test}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
