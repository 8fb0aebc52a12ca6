"""Costs without a machine: a weight takes time as its multiplications, a plan as many fewer as it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from monstera.sparsity import Entry, Plan, weight_views


@dataclass(frozen=True, slots=True)
class SyntheticCosts:
    """Every weight has its dense milliseconds; holes save all but a tenth of the share that they are."""

    dense: Mapping[str, float]
    rest_ms: float = 0.1

    @classmethod
    def of(cls, model: nn.Module) -> SyntheticCosts:
        return cls({name: view.weight.numel() / 1000 for name, view in weight_views(model).items()})

    @property
    def dense_ms(self) -> float:
        return self.network_ms({})

    @property
    def weights(self) -> tuple[str, ...]:
        return tuple(self.dense)

    def layer_ms(self, weight: str, entry: Entry | None = None) -> float:
        return self.dense[weight] * (1.0 if entry is None else 0.1 + 0.9 * entry.density)

    def network_ms(self, plan: Mapping[str, Entry] | Plan) -> float:
        return self.rest_ms + sum(self.layer_ms(weight, plan.get(weight)) for weight in self.dense)
