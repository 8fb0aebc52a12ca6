"""What a caller passes, as the library takes it: fp32, in row-major order, checked."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from monstera.runtime.manifest import InputSpec

# fp32 holds all whole numbers up to here.
LARGEST_WHOLE = 2**24


def as_array(value: Any, spec: InputSpec) -> np.ndarray:
    """A C-contiguous fp32 view or copy of a torch tensor or numpy array; whole numbers and truth values are converted.

    Raises:
        TypeError: not an array, or of another dtype than the engine was compiled for.
        ValueError: another shape, a whole number that is no row of its table, or one that fp32 cannot hold.
    """
    value = numpy_of(value, spec)
    if value.shape != spec.shape:
        raise ValueError(
            f"input {spec.name!r} has shape {list(value.shape)}; the engine was compiled for {list(spec.shape)}: "
            "compile again with an example of this shape"
        )
    if spec.dtype != "float32":
        _check_range(value, spec)
    return np.ascontiguousarray(value, np.float32)


def numpy_of(value: Any, spec: InputSpec) -> np.ndarray:
    """A view of a torch tensor or numpy array as numpy, of any shape.

    Raises:
        TypeError: not an array, or of another dtype than the engine was compiled for.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        if value.device.type != "cpu":
            raise TypeError(f"input {spec.name!r} is on {value.device}; engines run on the CPU: pass it .cpu()")
        if str(value.dtype) != f"torch.{spec.dtype}":
            advice = "pass it .float()" if spec.dtype == "float32" else f"pass it .to(torch.{spec.dtype})"
            raise TypeError(f"input {spec.name!r} is {value.dtype}; expected {spec.dtype}: {advice}")
        value = value.detach().numpy()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"input {spec.name!r} is a {type(value).__name__}; expected a torch tensor or a numpy array")
    if value.dtype != spec.dtype:
        raise TypeError(f"input {spec.name!r} is {value.dtype}; expected {spec.dtype}")
    return value


def _check_range(value: np.ndarray, spec: InputSpec) -> None:
    first, last = (-LARGEST_WHOLE, LARGEST_WHOLE) if spec.limit is None else (0, min(spec.limit - 1, LARGEST_WHOLE))
    wrong = (value < first) | (value > last)
    if wrong.any():
        place = np.argwhere(wrong)[0].tolist()
        expected = f"a row of a table, from {first} to {last}" if spec.limit else f"numbers from {first} to {last}"
        raise ValueError(f"input {spec.name!r} holds {value[tuple(place)]} at {place}; expected {expected}")


def random_array(spec: InputSpec, rng: np.random.Generator) -> np.ndarray:
    """Some value of an input, as a caller would pass it: normally distributed, or any numbers in its range."""
    if spec.dtype == "float32":
        return rng.standard_normal(spec.shape, np.float32)
    return rng.integers(0, min(spec.limit or 2, LARGEST_WHOLE + 1), spec.shape).astype(spec.dtype)
