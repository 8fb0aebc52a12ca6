"""The backend of `torch.compile`: graphs that dynamo hands over become native programs with torch between them."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import fx
from torch._dynamo.convert_frame import compile_lock
from torch.fx import traceback
from torch.utils.weak import TensorWeakRef

from monstera.compiler.api import Settings, build_engine, settings_of
from monstera.compiler.frontends import UnsupportedError, split_torch
from monstera.compiler.hybrid import HybridEngine

_OPTIONS = ("threads", "target", "tune", "tuning")

Run = Callable[..., Any]


class FallbackWarning(UserWarning):
    """A graph of `torch.compile`, or a part of it, runs in torch; said once for each set of reasons."""


def backend(
    graph_module: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Run:
    """Compile a graph that dynamo found, at its first call: `torch.compile(model, backend="monstera")`.

    Weights are constants, as holes are read off them; after a change to them the next call compiles anew. Shapes are
    fixed: dynamo recompiles for others, as often as its `recompile_limit` allows. Operators that the compiler does not
    know run in torch, and so do parts without a layer that has weights; a `FallbackWarning` names the former.

    Any number of threads may call what is compiled. Torch itself cannot trace in one thread while others run what it
    compiled (https://github.com/pytorch/pytorch/issues/118260): call a model once with each shape before threads share
    it, and again after a change to its weights.

    Args:
        graph_module, example_inputs: as dynamo gives them.
        options: `threads`, `target`, `tune` and `tuning` of `monstera.compile`.

    Raises:
        ValueError: unknown options or values, or a mode, of which there are none.
        RuntimeError: when called, if autograd would need the answer, or a layer is in training mode.
        BuildError: when called, if there is no C compiler.
    """
    if mode is not None:
        raise ValueError(f'backend "monstera" has no modes, got mode={mode!r}; use options, such as {{"tune": "fast"}}')
    if unknown := sorted(set(options or {}) - set(_OPTIONS)):
        raise ValueError(f'backend "monstera" has no option {unknown[0]!r}; it has {", ".join(_OPTIONS)}')
    settings = settings_of(**(options or {}))
    _fix_shapes(graph_module)
    if refusal := _autograd(graph_module) or _training(graph_module):
        return partial(_refuse, refusal)
    _name_layers(graph_module)
    weights = [_is_weight(node, x) for node, x in zip(_placeholders(graph_module), example_inputs, strict=True)]
    return _CompiledGraph(graph_module, weights, settings)


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A program and the weights it was made from, each with a count of the writes to it."""

    run: Run
    weights: tuple[TensorWeakRef, ...]
    versions: tuple[int, ...]

    def made_from(self, weights: Sequence[torch.Tensor], versions: tuple[int, ...]) -> bool:
        return versions == self.versions and all(ref() is w for ref, w in zip(self.weights, weights, strict=True))


class _CompiledGraph:
    """One graph, for whichever weights it is called with: dynamo looks neither whose they are, nor what is in them."""

    def __init__(self, graph_module: fx.GraphModule, is_weight: Sequence[bool], settings: Settings) -> None:
        self._graph_module = graph_module
        self._is_weight = is_weight
        self._settings = settings
        self._compiled: dict[tuple[int, ...], _Compiled] = {}

    def __call__(self, *args: Any) -> Any:
        weights = [x for x, is_weight in zip(args, self._is_weight, strict=True) if is_weight]
        versions = tuple(0 if w.is_inference() else w._version for w in weights)
        key = tuple(map(id, weights))
        found = self._compiled.get(key)
        if found is None or not found.made_from(weights, versions):
            # Dynamo's own lock: export patches what dynamo looks at in other threads.
            with compile_lock:
                found = self._compiled.get(key)
                if found is None or not found.made_from(weights, versions):
                    found = self._compile(args, weights, versions)
                    # An id can be taken again once its tensor is gone.
                    alive = {k: c for k, c in self._compiled.items() if all(ref() is not None for ref in c.weights)}
                    self._compiled = {**alive, key: found}
        return found.run(*args)

    def _compile(self, args: Sequence[Any], weights: Sequence[torch.Tensor], versions: tuple[int, ...]) -> _Compiled:
        run = self._hybrid(args) or self._graph_module
        return _Compiled(run, tuple(map(TensorWeakRef, weights)), versions)

    def _hybrid(self, args: Sequence[Any]) -> Run | None:
        """What computes the graph for these weights; None where torch has to do it alone."""
        bound = _Bound(self._graph_module, args, self._is_weight)
        try:
            with torch.inference_mode(False), torch.no_grad():
                split = split_torch(bound.eval(), tuple(args[i] for i in bound.given))
        except UnsupportedError as error:
            _warn(f"a graph of torch.compile runs in torch: {error}")
            return None
        if refused := sorted({f"{c.operator}: {c.reason}" for c in split.torch_calls if c.refused}):
            _warn("operators of a graph of torch.compile run in torch:" + "".join(f"\n  {line}" for line in refused))
        if not split.parts:
            return None
        engine = HybridEngine(split, partial(build_engine, settings=self._settings))
        given = bound.given
        return lambda *args: engine(*[args[i] for i in given])


class _Bound(torch.nn.Module):
    """A graph of dynamo's as a module: weights and numbers are its own; its inputs are the arguments `given`."""

    def __init__(self, graph_module: fx.GraphModule, args: Sequence[Any], is_weight: Sequence[bool]) -> None:
        super().__init__()
        self._graph_module = graph_module
        self._fixed: dict[int, Any] = {}
        self._names: dict[int, str] = {}
        for i, (x, fixed) in enumerate(zip(args, is_weight, strict=True)):
            if fixed:
                self._names[i] = f"weight_{i}"
                self.register_buffer(self._names[i], x)
            elif not isinstance(x, torch.Tensor):
                self._fixed[i] = x
        self.given = [i for i in range(len(args)) if i not in self._fixed and i not in self._names]

    def forward(self, *inputs: torch.Tensor) -> Any:
        args = self._fixed | {i: self.get_buffer(name) for i, name in self._names.items()}
        args |= dict(zip(self.given, inputs, strict=True))
        # Interpreted, so that every operator keeps the name of its layer.
        with traceback.preserve_node_meta():
            return fx.Interpreter(self._graph_module).run(*[args[i] for i in range(len(args))])


def _placeholders(graph_module: fx.GraphModule) -> list[fx.Node]:
    return [*graph_module.graph.find_nodes(op="placeholder")]


def _fix_shapes(graph_module: fx.GraphModule) -> None:
    """Make dynamo recompile for other sizes and numbers: asking for one as a plain number puts a guard on it."""
    for node in _placeholders(graph_module):
        example = node.meta.get("example_value")
        for size in example.shape if isinstance(example, torch.Tensor) else [example]:
            if isinstance(size, torch.SymInt):
                int(size)


def _is_weight(node: fx.Node, example: Any) -> bool:
    """Whether an input of a graph is a parameter or a buffer of a module, which dynamo marks."""
    marks = node.meta.get("tensor_dict") or {}
    return isinstance(example, torch.nn.Parameter) or "_dynamo_static_input_type" in marks


def _autograd(graph_module: fx.GraphModule) -> str | None:
    (outputs,) = graph_module.graph.output_node().args
    fakes = [node.meta.get("example_value") for node in outputs if isinstance(node, fx.Node)]  # pyright: ignore
    if not any(isinstance(fake, torch.Tensor) and fake.requires_grad for fake in fakes):
        return None
    return (
        'backend "monstera" computes no gradients, and parameters or inputs of this model require them: call it under '
        "torch.no_grad() or torch.inference_mode(), after model.eval(); train the model itself, uncompiled"
    )


def _training(graph_module: fx.GraphModule) -> str | None:
    layers = [_layer(node) for node in graph_module.graph.nodes if node.op == "call_function" and _trains(node)]
    if not layers:
        return None
    return (
        f'backend "monstera" runs models in eval mode, and these are in training mode: {", ".join(layers[:10])}; '
        "call model.eval() first, and pass training=self.training to dropout in functional form"
    )


def _trains(node: fx.Node) -> bool:
    """Whether a node is a dropout, or a norm with statistics to update, in training mode."""
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        # Not one of torch.nn.functional, which has all that know of training.
        return False
    bound.apply_defaults()
    given = bound.arguments
    return given.get("training") is True and given.get("running_mean", node) is not None


def _name_layers(graph_module: fx.GraphModule) -> None:
    """Call layers by their path in the model: "layer1.0.conv1" where dynamo has "L['self'].layer1.0.conv1"."""
    for node in graph_module.graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        node.meta["nn_module_stack"] = {key: (_path(path), kind) for key, (path, kind) in stack.items()}


def _layer(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    return _path([*stack.values()][-1][0]) if stack else node.name


def _path(path: str) -> str:
    return re.sub(r"^L\['\w+'\]\.?", "", path)


def _refuse(refusal: str, *_args: Any) -> Any:
    raise RuntimeError(refusal)


@cache
def _warn(message: str) -> None:
    warnings.warn(message, FallbackWarning, stacklevel=2)
