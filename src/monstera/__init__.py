"""Monstera: find where a network may have holes, train them in, compile what is left."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> module that defines it. Resolved on first use, so that `import monstera` and `monstera.load` never import torch.
_EXPORTS = {
    "ADMM": "monstera.pruning",
    "Block": "monstera.sparsity",
    "Engine": "monstera.runtime",
    "Gradual": "monstera.pruning",
    "Plan": "monstera.sparsity",
    "compile": "monstera.compiler",
    "hold": "monstera.pruning",
    "load": "monstera.runtime",
    "load_masks": "monstera.sparsity",
    "preview": "monstera.compiler",
    "prune": "monstera.pruning",
    "save_masks": "monstera.sparsity",
}
__all__ = [*_EXPORTS]

if TYPE_CHECKING:
    from monstera.compiler import compile, preview  # noqa: A004
    from monstera.pruning import ADMM, Gradual, hold, prune
    from monstera.runtime import Engine, load
    from monstera.sparsity import Block, Plan, load_masks, save_masks


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'monstera' has no attribute {name!r}; it has {', '.join(sorted(_EXPORTS))}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
