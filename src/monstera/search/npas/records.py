"""The folder of a run and its files of plain values: what is there is not done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from monstera.measure import read_json, this_machine, write_json
from monstera.runtime.strict_json import encoded
from monstera.search.differences import differences
from monstera.search.npas.settings import NpasSettings, Rival, Split
from monstera.sparsity.files import tensors_digest
from monstera.training import Examples

FORMAT = "monstera.npas.1"


def read_record(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; where there is none it is made and written, whole or not at all.

    Raises:
        ValueError: the file is damaged.
    """
    if path.is_file():
        return read_json(path, lambda value: value)
    value = make()
    write_json(value, path)
    return value


def claim(place: Path, model: nn.Module, split: Split, settings: NpasSettings, rivals: Mapping[str, Rival]) -> None:
    """Take the folder for this run.

    Raises:
        ValueError: it is of another one.
    """
    asked = {
        "format": FORMAT,
        "settings": settings,
        "network": _digest(model.state_dict()),
        "data": {name: _digest({"x": part.images, "y": part.labels}) for name, part in _parts(split).items()},
        "rivals": {name: [_digest(rival.model.state_dict()), rival.holes] for name, rival in rivals.items()},
    }
    path, asked = place / "run.json", encoded(asked)
    found = read_record(path, lambda: asked | circumstances())
    if told := differences({name: found.get(name) for name in asked}, asked):
        raise ValueError(f"{path}: of another run ({told}); give another folder")


def circumstances() -> dict[str, Any]:
    """The day, and the machine with its software."""
    return {"date": datetime.now(timezone.utc).date().isoformat(), "machine": encoded(this_machine())}


def _parts(split: Split) -> dict[str, Examples]:
    return {"train": split.train, "held_out": split.held_out, "test": split.test}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return tensors_digest(tensors)[:16]
