"""An engine with torch in it: for networks with operators that the compiler does not know, in this process only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree

from monstera.compiler.frontends import Imported, Input, Split, TorchCall, UnsupportedError
from monstera.compiler.frontends.exported_program import layer_of, op_name
from monstera.compiler.frontends.partition import is_torch_call
from monstera.runtime import Engine, LayerProfile, Profile, bound


class HybridEngine:
    """Native programs for parts of one network at fixed input shapes, and torch for what is between them.

    Call it as an `Engine`: with the arguments of the model's forward, as torch tensors or numpy arrays of the example's
    shapes and types; the answer has the model's own structure and is numpy if all arguments were, but for tensors of
    types that numpy lacks (bfloat16), and torch where there are no arguments. Callable from many threads. It lives in
    this process only. Torch runs its operators with as many threads as torch is set to.

    Example:
        >>> import torch, monstera as ms
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ELU()).eval()
        >>> engine = ms.compile(model, torch.zeros(1, 3, 16, 16), fallback="torch")
        >>> [str(call) for call in engine.torch_calls]
        ['elu in 1: unknown to the compiler']
    """

    def __init__(self, split: Split, compile_part: Callable[[Imported], Engine]) -> None:
        # The split itself is not kept, as its graphs hold the model's own weights.
        self._inputs, self._output, self._torch_calls = split.inputs, split.output, split.torch_calls
        self._engines = {name: compile_part(part) for name, part in split.parts.items()}
        self._module = split.module
        for name, engine in self._engines.items():
            setattr(self._module, name, _Part(engine))

    @property
    def torch_calls(self) -> tuple[TorchCall, ...]:
        """What runs in torch, in order, each with its layer and the reason."""
        return self._torch_calls

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The compiled parts, in order."""
        return tuple(self._engines.values())

    def __repr__(self) -> str:
        operators = ", ".join(sorted({call.operator for call in self.torch_calls}))
        return f"HybridEngine({self._takes}; {len(self._engines)} part(s) compiled, in torch: {operators})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network, without autograd.

        Raises:
            TypeError: an argument is missing, unknown, given twice, not an array, or of another type than the example.
            ValueError: an argument has another shape than the example.
        """
        given = self._bound(args, kwargs)
        with torch.no_grad():
            leaves = self._module(*[_tensor(value, i) for value, i in zip(given, self._inputs, strict=True)])
        if given and not any(isinstance(value, torch.Tensor) for value in given):
            leaves = [_array(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return pytree.tree_unflatten(leaves, self._output)

    def profile(self, *args: Any, rounds: int = 20, **kwargs: Any) -> Profile:
        """Time every step of the compiled parts and every call of torch, whose kernel is "torch".

        Medians over `rounds` runs, on the given arguments or on random ones (zeros where they are not fp32).

        Raises:
            TypeError, ValueError: as for a call.
        """
        generator = torch.Generator().manual_seed(0)
        given = self._bound(args, kwargs) if args or kwargs else [_random(i, generator) for i in self._inputs]
        tensors = [_tensor(value, i) for value, i in zip(given, self._inputs, strict=True)]
        watch, whole = _Stopwatch(self._module, rounds), []
        with torch.no_grad():
            for _ in range(rounds):
                watch.run(*tensors)
                start = time.perf_counter()
                self._module(*tensors)
                whole.append(time.perf_counter() - start)
            rows = [row for node in self._module.graph.nodes for row in watch.rows(node)]
        return Profile(tuple(rows), float(1e3 * np.median(whole)))

    def save(self, path: str | os.PathLike[str]) -> NoReturn:
        """Refuse, as torch cannot be saved along with it.

        Raises:
            UnsupportedError: lists all that runs in torch.
        """
        self._refuse(f"save {os.fspath(path)}")

    def export_c(self, folder: str | os.PathLike[str]) -> NoReturn:
        """Refuse, as for `save`.

        Raises:
            UnsupportedError: lists all that runs in torch.
        """
        self._refuse(f"export C to {os.fspath(folder)}")

    def _refuse(self, what: str) -> NoReturn:
        lines = "".join(f"\n  {call}" for call in self.torch_calls)
        raise UnsupportedError(
            f"cannot {what}: these operators run in torch, which a stand-alone program has not; "
            f"replace those that the compiler refuses, and compile again:{lines}"
        )

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        return bound(self._inputs, args, kwargs, lambda: f"the engine takes {self._takes}")

    @property
    def _takes(self) -> str:
        return ", ".join(f"{i.name} {list(i.shape)}" for i in self._inputs)


class _Part(torch.nn.Module):
    """A compiled part as torch calls it."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.engine(*args)


class _Stopwatch(fx.Interpreter):
    """Runs a split program node by node, and takes the time of what runs in torch."""

    def __init__(self, module: fx.GraphModule, rounds: int) -> None:
        super().__init__(module)
        self._rounds = rounds
        self._seconds: dict[fx.Node, list[float]] = {}
        self._profiles: dict[fx.Node, Profile] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_module" and n not in self._profiles:
            args, _ = self.fetch_args_kwargs_from_env(n)
            self._profiles[n] = self.module.get_submodule(str(n.target)).engine.profile(*args, rounds=self._rounds)  # pyright: ignore
        start = time.perf_counter()
        result = super().run_node(n)
        self._seconds.setdefault(n, []).append(time.perf_counter() - start)
        return result

    def rows(self, node: fx.Node) -> tuple[LayerProfile, ...]:
        """What the table says of a node: the steps of a part, one line for a call of torch, else nothing."""
        if node in self._profiles:
            return self._profiles[node].layers
        if not is_torch_call(node):
            return ()
        ms = float(1e3 * np.median(self._seconds[node]))
        return (LayerProfile(layer_of(node), op_name(node), "torch", ms, 0, 0, 0),)


def _tensor(value: Any, i: Input) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"input {i.name!r} is a {type(value).__name__}; expected a torch tensor or a numpy array")
    if str(value.dtype)[6:] != i.dtype:
        raise TypeError(f"input {i.name!r} is {str(value.dtype)[6:]}; expected {i.dtype}")
    if tuple(value.shape) != i.shape:
        raise ValueError(
            f"input {i.name!r} has shape {list(value.shape)}; the engine was compiled for {list(i.shape)}: "
            "compile again with an example of this shape"
        )
    return value


def _array(tensor: torch.Tensor) -> np.ndarray | torch.Tensor:
    """The tensor as numpy, or as it is if numpy has no such type."""
    try:
        return tensor.resolve_conj().resolve_neg().numpy()
    except TypeError:
        return tensor


def _random(i: Input, generator: torch.Generator) -> torch.Tensor:
    if i.dtype == "float32":
        return torch.randn(i.shape, generator=generator)
    return torch.zeros(i.shape, dtype=getattr(torch, i.dtype))
