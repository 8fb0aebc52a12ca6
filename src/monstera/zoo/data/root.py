"""Where the data lies."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "MONSTERA_DATA"
_BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[5] / "shared" / "data"


class DataMissingError(FileNotFoundError):
    """A data set is not where it was looked for."""


def data_root(option: str | os.PathLike[str] | None = None) -> Path:
    """Find the data folder: `option`, else the variable MONSTERA_DATA, else `../shared/data` beside the checkout.

    Raises:
        DataMissingError: none of the three names a folder.
    """
    for origin, folder in (("the option", option), (f"the variable {VARIABLE}", os.environ.get(VARIABLE))):
        if not folder:
            continue
        if not Path(folder).is_dir():
            raise DataMissingError(f"the data folder {str(folder)!r}, from {origin}, is not a folder")
        return Path(folder)
    if _BESIDE_THE_CHECKOUT.is_dir():
        return _BESIDE_THE_CHECKOUT
    raise DataMissingError(f"no data folder: name one by the data option or by the variable {VARIABLE}")
