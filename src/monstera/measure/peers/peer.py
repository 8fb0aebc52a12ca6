"""What an engine is to a comparison, and what all of them need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from monstera.measure.answers import Inputs, arguments

Call = Callable[[], Any]

FP32 = "fp32"
# What fp32 arithmetic in another order may differ by, relative to the largest output.
FP32_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Peer:
    """An engine: what it is called, what it lacks to run here, and how it is made ready.

    `prepare(model, example, threads)` returns a call that runs the network once on `example` and returns its answer;
    `missing()` says in a few words why that would fail on this machine, and nothing if it would not. A guest that
    fails all the same is excused with a note; an engine that is no guest is ours, and its failures are raised.
    `tolerance` bounds its error against torch in float64, relative to the largest output; `precision()` names the type
    it computes in on this machine ("fp32", "bf16", "fp16"), and is asked only where nothing is missing.
    torch has one thread count for the whole process, so calls of its engines run inside `torch_threads(threads)`.
    """

    name: str
    prepare: Callable[[nn.Module, Inputs, int], Call]
    missing: Callable[[], str] = lambda: ""
    guest: bool = True
    tolerance: float = FP32_TOLERANCE
    precision: Callable[[], str] = lambda: FP32

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ValueError(f"{self.name}: a tolerance is relative, between 0 and 1; got {self.tolerance}")


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch use `threads` threads inside, and what it used before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def without(*packages: str) -> Callable[[], str]:
    """Return the `missing` of an engine that needs these packages."""

    def missing() -> str:
        absent = [package for package in packages if find_spec(package) is None]
        return f"needs {', '.join(absent)} (pip install 'monstera[bench]')" if absent else ""

    return missing


def as_numpy(example: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments of `example`, tensors as numpy arrays that share their memory."""
    args, kwargs = arguments(example)
    return tuple(_array(value) for value in args), {name: _array(value) for name, value in kwargs.items()}


def _array(value: Any) -> Any:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value
