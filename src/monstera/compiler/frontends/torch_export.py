"""Import a torch module by `torch.export`, without decomposition, at the shapes of an example."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from monstera.compiler.frontends.exported_program import op_name, translate
from monstera.compiler.frontends.imported import Imported, Input, UnsupportedError
from monstera.compiler.frontends.partition import Split, split
from monstera.runtime import DTYPES

# Operators whose result is new memory: writing to it in place can be seen by nobody else.
_FRESH = (
    *(f"{name}{k}d" for name in ("conv", "conv_transpose", "max_pool", "avg_pool") for k in (1, 2, 3)),
    *("batch_norm", "linear", "add", "mul", "sub", "cat"),
)
_SHOWN = 10
_CACHE = (
    "; leave it out with model.config.use_cache = False, or take monstera.integrations.transformers.decoder(model, "
    "context), a step for one token at a time"
)
_PACKED = (
    "packed sequences, whose steps differ in batch; an engine's shapes are fixed: "
    "pass the padded tensor itself, or compile for one sequence of each length"
)


def from_torch(model: torch.nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Imported:
    """Turn a module in eval mode into a graph, for inputs of exactly the example's shapes.

    `args` and `kwargs` are what one would call the model with: tensors, fp32 or of whole numbers or truth values. The
    model is not modified.

    Raises:
        ValueError: the model is in training mode, or a weight is not finite fp32, or an input is something else.
        UnsupportedError: the model computes something that the IR has no operator for; all of it is listed.
    """
    return trace_torch(model, args, kwargs).imported(model)


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """What a module computes, whatever its weights are: tracing takes much longer than making the graph of it."""

    program: torch.export.ExportedProgram
    inputs: tuple[Input, ...]

    def imported(self, model: torch.nn.Module) -> Imported:
        """The graph with the weights of `model`, which is the module that was traced or a copy of it.

        Raises:
            ValueError: a weight is not finite fp32.
            UnsupportedError: as for `from_torch`.
        """
        _check_weights(model)
        return translate(self.program, self.inputs, _weights(model))


def trace_torch(model: torch.nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Traced:
    """Trace a module in eval mode, as `from_torch` does.

    Raises:
        ValueError, UnsupportedError: as for `from_torch`.
    """
    _check_mode(model)
    _check_weights(model)
    inputs, args, kwargs = _bind(model, args, dict(kwargs or {}))
    _check_inputs(inputs)
    return Traced(_export(model, args, kwargs), inputs)


def split_torch(model: torch.nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Split:
    """Turn a module in eval mode into parts that can be compiled and calls of torch around them.

    Arguments are tensors of any type. What is not finite fp32, weights included, stays in torch.

    Raises:
        ValueError: the model is in training mode, or an input is not a tensor.
        UnsupportedError: torch.export cannot trace the model, or the model writes to its state or its inputs.
    """
    _check_mode(model)
    inputs, args, kwargs = _bind(model, args, dict(kwargs or {}))
    return split(_export(model, args, kwargs), inputs)


def _check_mode(model: torch.nn.Module) -> None:
    training = [name or type(module).__name__ for name, module in model.named_modules() if module.training]
    if training:
        raise ValueError(f"these modules are in training mode: {_listed(training)}; call model.eval() first")


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers under all names that they have."""
    buffers = model.named_buffers(remove_duplicate=False)
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(buffers)}


def _check_weights(model: torch.nn.Module) -> None:
    tensors = _weights(model)
    floats = {name: t for name, t in tensors.items() if t.is_floating_point() or t.is_complex()}
    if wrong := [f"{name} is {str(t.dtype)[6:]}" for name, t in floats.items() if t.dtype != torch.float32]:
        raise ValueError(f"expected weights in float32, got {_listed(wrong)}; call model.float() first")
    if wrong := [name for name, t in floats.items() if not t.isfinite().all()]:
        raise ValueError(f"NaN or infinite values in {_listed(wrong)}; the model cannot be compiled")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _bind(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Input, ...], tuple[Any, ...], dict[str, Any]]:
    """Name every input as the model's forward does; arguments that may be positional come first."""
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"the example does not fit {type(model).__name__}.forward{signature}: {error}") from error
    names: list[str] = []
    for name, value in bound.arguments.items():
        starred = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        names += [f"{name}_{i}" for i in range(len(value))] if starred else [name]
    # What follows an argument that was left out can only be passed by keyword, and so it stands in bound.kwargs.
    positional = dict(zip(names, bound.args, strict=False))
    inputs = [_input(name, value, True) for name, value in positional.items()]
    inputs += [_input(name, value, False) for name, value in bound.kwargs.items()]
    # Of a tensor that is passed twice, export would make one input.
    args, kwargs = pytree.tree_map(torch.clone, (bound.args, bound.kwargs))
    return tuple(inputs), args, kwargs


def _input(name: str, value: Any, positional: bool) -> Input:
    if isinstance(value, PackedSequence):
        raise UnsupportedError(f"input {name!r}: {_PACKED}")
    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"input {name!r} is a {type(value).__name__}; expected a tensor (fix other arguments in a wrapper)"
        )
    return Input(name, tuple(value.shape), str(value.dtype)[6:], positional)


def _check_inputs(inputs: tuple[Input, ...]) -> None:
    for i in inputs:
        if i.dtype not in DTYPES:
            raise ValueError(
                f"input {i.name!r} is {i.dtype}; expected float32, or for numbers that count int64, int32 or bool"
            )


def _export(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    with torch.no_grad(), _without_packing(model):
        try:
            program = torch.export.export(model, args, kwargs, strict=False)
        except Exception as error:
            advice = _CACHE if "Cache'> in output" in str(error) else ""
            raise UnsupportedError(f"torch.export cannot trace {type(model).__name__}: {error}{advice}") from error
        if any(_writes_to_shared(node) for node in program.graph.nodes):
            # An empty table decomposes nothing; it only turns writes in place into new values.
            program = program.run_decompositions({})
    signature = program.graph_signature
    if written := [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]:
        raise UnsupportedError(f"the model writes to {_listed(written)} when called; an engine has no state")
    return program


@contextmanager
def _without_packing(model: torch.nn.Module) -> Iterator[None]:
    """Say what is wrong with packed sequences, which torch.export stumbles over; and nothing of its own bookkeeping."""
    handles = [
        module.register_forward_pre_hook(_refuse_packed)
        for module in model.modules()
        if isinstance(module, torch.nn.RNNBase)
    ]
    try:
        with warnings.catch_warnings():
            # The flat list of a recurrent layer's weights, which export fills and restores.
            warnings.filterwarnings("ignore", r"(?s).*_flat_weights.*were assigned during export", UserWarning)
            yield
    finally:
        for handle in handles:
            handle.remove()


def _refuse_packed(_layer: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
    if isinstance(inputs[0], PackedSequence):
        raise UnsupportedError(_PACKED)


def _writes_to_shared(node: fx.Node) -> bool:
    """Whether a node writes in place to memory that another value may share."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return False
    target = node.args[0]
    assert isinstance(target, fx.Node)
    return len(target.users) > 1 or op_name(target) not in _FRESH
