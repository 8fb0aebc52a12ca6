"""Who works on a parameter now: a pruner holds masks and copies in its order, so rewrites of the model must wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from monstera.sparsity.errors import AttachedError

# Parameters are known by identity; those of models that are gone leave by themselves.
_BY_PARAMETER: WeakIdKeyDictionary = WeakIdKeyDictionary()


def attach(tensors: Iterable[Tensor], name: str) -> None:
    """Say that a method works on these parameters from now on."""
    for tensor in tensors:
        _BY_PARAMETER[tensor] = name


def detach(tensors: Iterable[Tensor]) -> None:
    """Say that no method works on these parameters any more."""
    for tensor in tensors:
        _BY_PARAMETER.pop(tensor, None)


def refuse_attached(tensors: Mapping[str, Tensor], done: str) -> None:
    """Refuse to rewrite what a method works on.

    Raises:
        AttachedError: a method is attached to one of the tensors.
    """
    held = {name: _BY_PARAMETER[tensor] for name, tensor in tensors.items() if tensor in _BY_PARAMETER}
    if held:
        name, method = next(iter(held.items()))
        raise AttachedError(
            f"{name} cannot be {done} while {method} is attached to it, which holds masks and copies in the order of "
            f"now; rewrite the model before pruner and optimizer are made, or call finish() or remove() first"
        )
