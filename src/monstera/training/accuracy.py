"""How many examples a network puts in the right class."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from monstera.modes import evaluating


@torch.no_grad()
def count_correct(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[int, int]:
    """Return how many examples a model, in evaluation mode, puts in the right class, and how many there are.

    Args:
        batches: (inputs, labels), labels int64 `[N]`.

    Raises:
        ValueError: the model gives no tensor `[N, classes]`.
    """
    correct = count = 0
    with evaluating(model):
        for inputs, labels in batches:
            logits = model(inputs)
            if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(labels):
                got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise ValueError(f"accuracy: expected the model to give [{len(labels)}, classes], got {got}")
            correct += int((logits.argmax(1) == labels).sum())
            count += len(labels)
    return correct, count


def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the fraction of examples that a model, in evaluation mode, puts in the right class.

    Raises:
        ValueError: there are no examples, or see `count_correct`.
    """
    correct, count = count_correct(model, batches)
    if not count:
        raise ValueError("accuracy: no examples were given")
    return correct / count
