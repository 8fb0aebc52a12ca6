"""What an ablation begins with: the base network of another run and what that costs, taken from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monstera.measure import write_json
from monstera.search.differences import differences
from monstera.search.npas.records import read_record
from monstera.search.npas.settings import NpasSettings
from monstera.sparsity.files import write_atomically

# Settings that decide the base network and what it costs.
DECISIVE = ("tune", "least_saving", "threads")


def borrow(other: Path, place: Path, settings: NpasSettings) -> None:
    """Copy phase 1 and the costs of the base network from the folder of one run to that of another, unless it has them.

    Args:
        other: where they are taken from; read only.
        place: already claimed by this run.

    Raises:
        ValueError: the other run has not come so far, or is of another network, other data or another phase 1.
    """
    if (place / "budget.json").is_file():
        return
    files = [other / name for name in ("run.json", "base.json", "base.safetensors", "budget.json")]
    if missing := [path for path in files if not path.is_file()]:
        raise ValueError(f"base_from: there is no {missing[0]}; do that run first, as far as the search at least")
    theirs, ours = (_decisive(folder / "run.json") for folder in (other, place))
    if told := differences(theirs, ours):
        raise ValueError(f"base_from: {other} is a run with another base network ({told}); name another, or none")
    for name in ("base.json", "base.safetensors"):
        write_atomically(place / name, (other / name).read_bytes())
    dense = read_record(other / "budget.json", dict)["dense"]
    # The last: where this is, the rest is.
    write_json({"dense": dense, "budget": settings.budget * dense[settings.search.cost]}, place / "budget.json")


def _decisive(path: Path) -> dict[str, Any]:
    asked = read_record(path, dict)
    settings = {name: asked["settings"].get(name) for name in DECISIVE}
    return {"network": asked["network"], "data": asked["data"], "settings": settings}
