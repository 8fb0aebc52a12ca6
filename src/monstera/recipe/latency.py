"""The latency rows of a result: the trained network in torch, ONNX Runtime and Monstera, dense and sparse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from monstera.measure import EAGER, MONSTERA, ONNX_RUNTIME, Entry, compare, to_json
from monstera.recipe.schema import Recipe


def measure_latency(
    recipe: Recipe, holes: str, dense: nn.Module, sparse: nn.Module, example: Tensor, on_step: Callable[[str], None]
) -> dict[str, Any]:
    """Measure both networks, in evaluation mode, on `example`; answers are compared first (see `monstera.measure`)."""
    entries = [
        *(Entry(peer, dense) for peer in (EAGER, ONNX_RUNTIME, MONSTERA)),
        Entry(MONSTERA, sparse, holes),
    ]
    return to_json(compare(recipe.network.name, entries, example, threads=recipe.latency.threads, on_step=on_step))
