"""Shapes that nobody declared: the network is compiled for them when an engine is first called with them."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from monstera.runtime import Engine, InputSpec
from monstera.sparsity.files import tensors_digest

Compile: TypeAlias = Callable[[tuple[torch.Tensor, ...], Mapping[str, torch.Tensor]], Engine]
"""From positional and keyword arguments of the model to an engine for their shapes."""

_log = logging.getLogger("monstera")


class CompiledAnew:
    """Engines for shapes that no example declared, each compiled at the first call with them and kept.

    Callable from many threads: those that ask for a shape that is being compiled wait for it.

    Args:
        model: what `compile_at` compiles; it must stay as it is.
        inputs: the signature, of whatever shapes.
    """

    def __init__(self, model: Any, inputs: Sequence[InputSpec], compile_at: Compile) -> None:
        self._model, self._inputs, self._compile_at = model, tuple(inputs), compile_at
        self._state = _state(model)
        self._engines: dict[tuple[tuple[int, ...], ...], Engine] = {}
        self._lock, self._pid = threading.Lock(), os.getpid()

    def __call__(self, arrays: Sequence[np.ndarray]) -> Engine:
        """The engine for arrays of these shapes, in the order of the inputs.

        Raises:
            ValueError: the model has changed; or as for `compile`, as do all other errors.
        """
        shapes = tuple(array.shape for array in arrays)
        if shapes not in self._engines:
            with self._lock_of_this_process():
                if shapes not in self._engines:
                    self._engines[shapes] = self._compile(shapes)
        return self._engines[shapes]

    def _compile(self, shapes: Sequence[tuple[int, ...]]) -> Engine:
        if _state(self._model) != self._state:
            raise ValueError("the model has changed since its engine was compiled: compile it again for all shapes")
        what = ", ".join(f"{i.name} {list(shape)}" for i, shape in zip(self._inputs, shapes, strict=True))
        # People wait for it, and those who did not know should learn why.
        _log.warning("compiling for %s, which no example declared", what)
        start = time.perf_counter()
        given = {i.name: _zeros(shape, i) for i, shape in zip(self._inputs, shapes, strict=True)}
        args = tuple(given.pop(i.name) for i in self._inputs if i.positional)
        with torch.inference_mode(False):
            engine = self._compile_at(args, given)
        _log.warning("compiled for %s in %.1f s", what, time.perf_counter() - start)
        return engine

    def _lock_of_this_process(self) -> threading.Lock:
        """A fork may find the lock taken by a thread that the child does not have."""
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()
        return self._lock


def _zeros(shape: tuple[int, ...], spec: InputSpec) -> torch.Tensor:
    return torch.zeros(shape, dtype=getattr(torch, spec.dtype))


def _state(model: Any) -> str:
    """What tells a model from what it was before: its tensors or, of a file, its date and length."""
    if isinstance(model, torch.nn.Module):
        # All of their bytes: writes by way of `.data`, as pruning does them, leave no other trace.
        return tensors_digest({**dict(model.named_parameters()), **dict(model.named_buffers())})
    if isinstance(model, str | os.PathLike):
        status = Path(model).stat()
        return f"{status.st_mtime_ns} {status.st_size}"
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
