"""What engines are given and what they answer, flattened so that they can be compared."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Inputs = torch.Tensor | tuple[Any, ...] | Mapping[str, Any]


class WrongAnswerError(ValueError):
    """An engine does not compute what the network computes, so its time means nothing."""


def arguments(example: Inputs | list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments that an example or a batch (as loaders give it) stands for."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example) if isinstance(example, tuple | list) else (example,)), {}


def arrays(value: Any) -> list[NDArray[Any]]:
    """Return every tensor and array inside `value`, depth first, as numpy arrays that share their memory."""
    if isinstance(value, torch.Tensor):
        return [value.detach().numpy()]
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in arrays(item)]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in arrays(item)]
    return []


def reference(model: nn.Module, example: Inputs) -> Any:
    """Return what `model` answers in float64: fp32 has rounding of its own, in some networks as much as is tolerated.

    The model is left as it was; inputs that are not floating point stay what they are.
    """
    args, kwargs = arguments(example)
    exact = copy.deepcopy(model).double()
    with torch.inference_mode():
        return exact(*map(_widened, args), **{name: _widened(value) for name, value in kwargs.items()})


def _widened(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def max_error(answer: Any, reference: Any) -> float:
    """Return the largest difference between two answers, relative to the largest magnitude of each reference array.

    Any structure of tensors and arrays is accepted. NaN in the answer where the reference has none counts as infinite.

    Raises:
        WrongAnswerError: the answers differ in number or in shape.
    """
    got, expected = arrays(answer), arrays(reference)
    shapes = [a.shape for a in got], [a.shape for a in expected]
    if shapes[0] != shapes[1]:
        raise WrongAnswerError(f"shapes differ: expected {shapes[1]}, got {shapes[0]}")
    return max((_array_error(a, b) for a, b in zip(got, expected, strict=True)), default=0.0)


def _array_error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    if not expected.size:
        return 0.0
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    worst = float(difference.max() / max(float(np.abs(expected).max()), np.finfo(np.float32).tiny))
    return worst if np.isfinite(worst) else float("inf")
