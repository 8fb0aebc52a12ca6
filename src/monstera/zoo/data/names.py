"""The data sets by name, for recipes and commands."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from monstera.zoo.data.cifar10 import cifar10
from monstera.zoo.data.digits import digits
from monstera.zoo.data.fashion_mnist import fashion_mnist
from monstera.zoo.data.pictures import PictureSet

DATA_SETS: Mapping[str, Callable[..., PictureSet]] = {
    "cifar10": cifar10,
    "digits": digits,
    "fashion_mnist": fashion_mnist,
}


def data_set(name: str, root: str | os.PathLike[str] | None = None) -> PictureSet:
    """Read the data set called `name` from the data folder `root` (see `data_root`).

    Raises:
        ValueError: no data set has this name.
        DataMissingError: it is not there.
    """
    if name not in DATA_SETS:
        raise ValueError(f"no data set is called {name!r}; known: {', '.join(DATA_SETS)}")
    return DATA_SETS[name](root)
