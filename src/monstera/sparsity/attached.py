"""Who works on a parameter now: a pruner holds masks and copies in its order, so rewrites of the model must wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from monstera.sparsity.errors import AttachedError

# The names of all methods on a parameter. It is known by identity, and leaves by itself when its model is gone.
_BY_PARAMETER: WeakIdKeyDictionary = WeakIdKeyDictionary()


def attach(tensors: Iterable[Tensor], name: str) -> None:
    """Say that a method works on these parameters from now on."""
    for tensor in tensors:
        _BY_PARAMETER[tensor] = (*(_BY_PARAMETER.get(tensor) or ()), name)


def detach(tensors: Iterable[Tensor], name: str) -> None:
    """Say that a method does not work on these parameters any more; once more does no harm."""
    for tensor in tensors:
        names = list(_BY_PARAMETER.get(tensor) or ())
        if name in names:
            names.remove(name)
            _BY_PARAMETER[tensor] = tuple(names)


def refuse_attached(tensors: Mapping[str, Tensor], done: str) -> None:
    """Refuse to rewrite what a method works on.

    Raises:
        AttachedError: a method is attached to one of the tensors.
    """
    held = {name: methods for name, tensor in tensors.items() if (methods := _BY_PARAMETER.get(tensor))}
    for name, (method, *_) in held.items():
        raise AttachedError(
            f"{name} cannot be {done} while {method} is attached to it, which holds masks and copies in the order of "
            f"now; rewrite the model before pruner and optimizer are made, or call finish() or remove() first"
        )
