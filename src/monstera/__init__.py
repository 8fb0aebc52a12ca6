"""Monstera: find where a network may have holes, train them in, compile what is left."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Name -> room. Resolved on first use, so that `import monstera` and `monstera.load` never import torch.
_EXPORTS = {
    "ADMM": "pruning",
    "ASP": "pruning",
    "ArtifactError": "runtime",
    "Block": "sparsity",
    "BlockColumnRow": "sparsity",
    "BuildError": "compiler",
    "Cuts": "sparsity",
    "Distill": "pruning",
    "Engine": "runtime",
    "GoalError": "search",
    "Gradual": "pruning",
    "GroupLasso": "pruning",
    "HybridEngine": "compiler",
    "Intersection": "sparsity",
    "KernelPattern": "sparsity",
    "Plan": "sparsity",
    "PlanError": "sparsity",
    "Quantize": "sparsity",
    "Reweighted": "pruning",
    "SPP": "pruning",
    "SRSTE": "pruning",
    "TableError": "compiler",
    "Unify": "sparsity",
    "UnsupportedError": "compiler",
    "compile": "compiler",
    "from_onnx": "compiler",
    "hold": "pruning",
    "load": "loading",
    "load_masks": "sparsity",
    "pattern": "sparsity",
    "pivot": "sparsity",
    "plan": "search",
    "preview": "compiler",
    "prune": "pruning",
    "read_tuning": "compiler",
    "save_masks": "sparsity",
    "shrink": "sparsity",
    "write_tuning": "compiler",
}
__all__ = [
    "ADMM",
    "ASP",
    "SPP",
    "SRSTE",
    "ArtifactError",
    "Block",
    "BlockColumnRow",
    "BuildError",
    "Cuts",
    "Distill",
    "Engine",
    "GoalError",
    "Gradual",
    "GroupLasso",
    "HybridEngine",
    "Intersection",
    "KernelPattern",
    "Plan",
    "PlanError",
    "Quantize",
    "Reweighted",
    "TableError",
    "Unify",
    "UnsupportedError",
    "compile",
    "from_onnx",
    "hold",
    "load",
    "load_masks",
    "pattern",
    "pivot",
    "plan",
    "preview",
    "prune",
    "read_tuning",
    "save_masks",
    "shrink",
    "write_tuning",
]

if TYPE_CHECKING:
    from monstera.compiler import (
        BuildError,
        HybridEngine,
        TableError,
        UnsupportedError,
        compile,  # noqa: A004
        from_onnx,
        preview,
        read_tuning,
        write_tuning,
    )
    from monstera.loading import load
    from monstera.pruning import ADMM, ASP, SPP, SRSTE, Distill, Gradual, GroupLasso, Reweighted, hold, prune
    from monstera.runtime import ArtifactError, Engine
    from monstera.search import GoalError, plan
    from monstera.sparsity import (
        Block,
        BlockColumnRow,
        Cuts,
        Intersection,
        KernelPattern,
        Plan,
        PlanError,
        Quantize,
        Unify,
        load_masks,
        pattern,
        pivot,
        save_masks,
        shrink,
    )


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'monstera' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"monstera.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
