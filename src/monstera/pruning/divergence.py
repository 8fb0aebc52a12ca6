"""Sparse architecture divergence: how much masks differ between steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, final

from torch import Tensor

from monstera.pruning.distributed import part_of, whole
from monstera.pruning.report import Divergence


def sad(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, int]:
    """Count by name how many weights are in one mask and not in the other; the network's divergence is their sum.

    Args:
        before, after: bool masks of the same names and shapes, such as copies of `pruner.masks` of two steps.

    Raises:
        ValueError: the names differ.

    Source: A. Zhou et al. 2021, arXiv 2102.04010: `SAD_{i:j} = ||E_i - E_j||_0` of the masks E of steps i and j.

    Example:
        >>> import torch
        >>> one, other = torch.tensor([[True, True, False, False]]), torch.tensor([[True, False, True, False]])
        >>> sad({"fc.weight": one}, {"fc.weight": other})
        {'fc.weight': 2}
    """
    if before.keys() != after.keys():
        raise ValueError(f"expected masks of the same weights, got {sorted(before.keys() ^ after.keys())} in one only")
    return {name: int(whole((before[name] ^ mask).sum())) for name, mask in after.items()}


@final
class DivergenceLog:
    """The divergence of a pruner's masks over every `every` steps; made by `Pruner.track_divergence`."""

    def __init__(self, every: int, step: int, masks: Mapping[str, Tensor]) -> None:
        if every < 1:
            raise ValueError(f"every: expected at least 1 step, got {every}")
        self.every = every
        self.history: list[Divergence] = []
        self._since, self._masks = step, masks

    def note(self, step: int, masks: Mapping[str, Tensor]) -> None:
        """Take note of the masks after a step, if it is one of those."""
        if step % self.every == 0:
            self.history.append(Divergence(self._since, step, sad(self._masks, masks)))
            self._since, self._masks = step, masks

    def state(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "every": self.every,
            "since": self._since,
            "masks": {name: mask.clone() for name, mask in self._masks.items()},
            "history": [asdict(entry) for entry in self.history],
        }


def resumed(
    log: DivergenceLog | None, state: Mapping[str, Any] | None, step: int, masks: Mapping[str, Tensor]
) -> DivergenceLog | None:
    """Return the log with which a pruner of these masks goes on from a saved state.

    It has what the state has noted, and notes as often as `log` did, or else the state's. Without either there is none.
    """
    if state is None:
        return None if log is None else DivergenceLog(log.every, step, masks)
    made = DivergenceLog(state["every"] if log is None else log.every, state["since"], _on(state["masks"], masks))
    made.history = [Divergence(**entry) for entry in state["history"]]
    return made


def _on(values: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: part_of(values[name].to(mask.device), mask) for name, mask in like.items()}
