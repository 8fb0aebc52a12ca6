"""Walk over an exported program and write down what its operators say about channels."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from monstera.modes import attention_in_full, evaluating
from monstera.sparsity.channels.axes import Ledger, Shape, Value
from monstera.sparsity.channels.operators import axes_of, operator_name
from monstera.sparsity.errors import TraceError

Example = Tensor | tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A program with the value of every node (of several results: a list), and what was said about their channels."""

    program: ExportedProgram
    values: Mapping[fx.Node, Value | list[Value] | None]
    ledger: Ledger


def trace(model: nn.Module, example: Example) -> Trace:
    """Export a model in eval mode, without decomposition, at the shapes of an example, and follow its channels.

    The model comes back in the mode it had.

    Raises:
        TraceError: torch.export cannot trace the model.
    """
    args = example if isinstance(example, tuple) else (example,)
    with evaluating(model), attention_in_full(), torch.no_grad():
        try:
            program = torch.export.export(model, args, strict=False)
        except Exception as error:
            raise TraceError(f"torch.export cannot trace {type(model).__name__}: {error}") from error
    walk = _Walk(_parameters(model, program))
    for node in program.graph.nodes:
        walk.visit(node)
    return Trace(program, walk.values, walk.ledger)


def _parameters(model: nn.Module, program: ExportedProgram) -> dict[str, str]:
    """Placeholder -> name of the parameter or buffer; a shared one goes by the first of its names."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    return {placeholder: first[id(tensors[name])] for placeholder, name in names.items() if name in tensors}


@dataclass(slots=True)
class _Walk:
    parameters: Mapping[str, str]
    ledger: Ledger = field(default_factory=Ledger)
    values: dict[fx.Node, Value | list[Value] | None] = field(default_factory=dict)
    seeded: dict[str, Value] = field(default_factory=dict)

    def visit(self, node: fx.Node) -> None:
        self.ledger.where = f"{operator_name(node)} ({node.name})" if node.op == "call_function" else node.op
        if node.op == "placeholder":
            self.values[node] = self._placeholder(node)
        elif node.op == "output":
            self._output(node)
        elif node.target is operator.getitem:
            source = self.values[node.args[0]]  # pyright: ignore[reportArgumentType]
            self.values[node] = source[node.args[1]] if isinstance(source, list) else None  # pyright: ignore
        elif node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            self.values[node] = self._call(node)
        else:
            self._stop_at(node)

    def _placeholder(self, node: fx.Node) -> Value | None:
        shapes = _shapes(node)
        name = self.parameters.get(node.name)
        if len(shapes) != 1 or name is None or not node.users:
            return Value(shapes[0]) if len(shapes) == 1 else None
        if name not in self.seeded:
            # Each dimension of a parameter moves by itself, until an operator says otherwise.
            axes = [self.ledger.seed(name, shapes[0], (d,)) for d, size in enumerate(shapes[0]) if size > 1]
            self.seeded[name] = Value(shapes[0], tuple(axes), name)
        return self.seeded[name]

    def _output(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            value = self.values.get(source)
            for one in value if isinstance(value, list) else [value] if value else []:
                for axis in one.axes:
                    self.ledger.fix(axis, "of the model is what callers see")

    def _call(self, node: fx.Node) -> Value | list[Value] | None:
        shapes = _shapes(node)
        found = axes_of(self.ledger, node, arguments_of(node, self.values), shapes)
        made = [Value(shape, axes) for shape, axes in zip(shapes, found, strict=True)]
        self.ledger.seen += [axis for axes in found for axis in axes]
        return made if isinstance(node.meta.get("val"), (list, tuple)) else made[0] if made else None

    def _stop_at(self, node: fx.Node) -> None:
        """Control flow and the like: whatever goes in is fixed."""
        for source in node.all_input_nodes:
            value = self.values.get(source)
            for one in value if isinstance(value, list) else [value] if value else []:
                for axis in one.axes:
                    self.ledger.fix(axis, "cannot be followed")
        self.values[node] = [Value(shape) for shape in _shapes(node)]


def _shapes(node: fx.Node) -> list[Shape]:
    value = node.meta.get("val")
    tensors: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    return [tuple(int(size) for size in tensor.shape) for tensor in tensors if isinstance(tensor, Tensor)]


def arguments_of(node: fx.Node, values: Mapping[fx.Node, Any]) -> dict[str, Any]:
    """The arguments of a call by name of the schema, with values in place of nodes."""
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema.arguments
    given = {**dict(zip([a.name for a in schema], node.args, strict=False)), **node.kwargs}
    return {a.name: _read(given.get(a.name, a.default_value), values) for a in schema}


def _read(argument: Any, values: Mapping[fx.Node, Any]) -> Any:
    if isinstance(argument, fx.Node):
        return values.get(argument)
    return [_read(a, values) for a in argument] if isinstance(argument, (list, tuple)) else argument
