"""Walk over an exported torch program and build the graph, operator by operator."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from monstera.compiler.frontends.aten_elementwise import ELEMENTWISE
from monstera.compiler.frontends.aten_layers import LAYERS
from monstera.compiler.frontends.aten_logic import LOGIC
from monstera.compiler.frontends.aten_lookups import LOOKUPS
from monstera.compiler.frontends.aten_movement import MOVEMENT
from monstera.compiler.frontends.aten_recurrent import RECURRENT
from monstera.compiler.frontends.aten_sequences import SEQUENCES
from monstera.compiler.frontends.aten_windows import WINDOWS
from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import Imported, Input, OutputIndex, UnsupportedError, describe_output
from monstera.runtime import DTYPES

_HANDLERS: Mapping[str, Callable[[Builder, Call], Value | tuple[Value, ...]]] = {
    **LAYERS,
    **WINDOWS,
    **ELEMENTWISE,
    **MOVEMENT,
    **LOGIC,
    **LOOKUPS,
    **SEQUENCES,
    **RECURRENT,
}
# The graph's numbers are fp32; whole ones and truth values are numbers as well.
_DTYPES = tuple(getattr(torch, name) for name in DTYPES)
# Only the shape of what they are given matters.
_SHAPE_ONLY = ("ones_like", "zeros_like", "full_like", "new_ones", "new_zeros", "new_full", "new_empty", "empty_like")

Values = dict[fx.Node, Any]
"""What torch's nodes have become: a Value, or a tuple of them."""


def translate(program: ExportedProgram, inputs: tuple[Input, ...], weights: Mapping[str, torch.Tensor]) -> Imported:
    """Build the graph of an exported program whose user inputs are `inputs`, in order.

    `weights` stand in the place of the program's own of the same names, and have their shapes.

    Raises:
        UnsupportedError: lists every operator that the IR cannot say, with its layer.
    """
    survey = survey_of(program, inputs, weights)
    if survey.refused:
        lines = [f"  {op_name(n)} in {layer_of(n) or 'the model itself'}: {why}" for n, why in survey.refused.items()]
        raise UnsupportedError(
            "the compiler cannot express these operators of the model (where an engine need not be saved, "
            'compile with fallback="torch" to run them in torch):\n' + "\n".join(lines)
        )
    return whole(program, inputs, survey)


@dataclass(frozen=True, slots=True)
class Survey:
    """A walk over all nodes: the graph so far, what each node became, and why the others cannot be translated."""

    build: Builder
    values: Values
    refused: Mapping[fx.Node, str]


def survey_of(program: ExportedProgram, inputs: tuple[Input, ...], weights: Mapping[str, torch.Tensor]) -> Survey:
    """Translate what can be translated of an exported program, and say why the rest cannot."""
    tensors = {**program.constants, **{name: weights.get(name, own) for name, own in program.state_dict.items()}}
    return _walk(program.graph, inputs, _placeholders(program, inputs, tensors), tensors)


def whole(program: ExportedProgram, inputs: tuple[Input, ...], survey: Survey) -> Imported:
    """The import of a program of which nothing was refused.

    Raises:
        UnsupportedError: the model returns something that an engine cannot.
    """
    return _finish(program.graph, inputs, survey, program.call_spec.out_spec)


def translate_part(graph: fx.Graph, inputs: tuple[Input, ...], values: Values, tensors: dict[str, Any]) -> Imported:
    """Build the graph of a part of a program, of which all was found translatable; it returns a tuple.

    `values` says what its placeholders are: names of `inputs`, or weights. `tensors` are the program's, by name.
    """
    survey = _walk(graph, inputs, values, tensors)
    assert not survey.refused, survey.refused
    return _finish(graph, inputs, survey, None)


def _walk(graph: fx.Graph, inputs: tuple[Input, ...], values: Values, tensors: dict[str, Any]) -> Survey:
    keys = {id(t): name for name, t in reversed(tensors.items()) if isinstance(t, torch.Tensor)}
    build = Builder([(i.name, i.shape) for i in inputs], keys)
    refused: dict[fx.Node, str] = {}
    # Nobody reads the checks that export inserts, nor the indices of a pool, nor what only they are made from.
    read = _read(graph)
    for node in graph.nodes:
        if node.op != "call_function" or node not in read:
            continue
        build.layer = layer_of(node)
        try:
            values[node] = _value(build, node, values)
        except UnsupportedError as error:
            # The walk goes on, so that the error can list all of them.
            stand_ins = tuple(build.stand_in(tuple(t.shape)) for t in results_of(node))
            values[node] = stand_ins if isinstance(node.meta["val"], tuple | list) else next(iter(stand_ins), None)
            refused[node] = str(error)
    return Survey(build, values, refused)


def _read(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that the output depends on."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or any(user in found for user in node.users):
            found.add(node)
    return found


def op_name(node: fx.Node) -> str:
    """`conv2d` for aten.conv2d.default, and without the underscore that says in place."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return getattr(node.target, "__name__", str(node.target))
    return node.target._schema.name.removeprefix("aten::").rstrip("_")


def layer_of(node: fx.Node) -> str:
    """The path of the innermost module that a node comes from; repeated calls of a module share it."""
    stack = node.meta.get("nn_module_stack")
    return re.sub(r"@\d+", "", [*stack.values()][-1][0]) if stack else ""


def _placeholders(program: ExportedProgram, inputs: tuple[Input, ...], tensors: Mapping[str, Any]) -> Values:
    values: Values = {}
    names = iter(inputs)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    for node, spec in zip(nodes, program.graph_signature.input_specs, strict=True):
        values[node] = next(names).name if spec.kind is InputKind.USER_INPUT else tensors[str(spec.target)]
    return values


def _value(build: Builder, node: fx.Node, values: Values) -> Any:
    """What one node becomes: folded where all its operands are known, else translated."""
    # Subgraphs, such as the body of an autocast, are operands without a value.
    operands = [values.get(n) for n in node.all_input_nodes]
    if node.target is operator.getitem:
        return _item(values[node.args[0]], node.args[1])  # pyright: ignore[reportArgumentType]
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        raise UnsupportedError("not an operator of torch")
    if any(o is None for o in operands):
        raise UnsupportedError("it takes a number that is computed from the input")
    if op_name(node) in _SHAPE_ONLY:
        values = {n: torch.zeros(n.meta["val"].shape, dtype=n.meta["val"].dtype) for n in node.all_input_nodes}
        operands = [*values.values()]
    if all(isinstance(o, torch.Tensor) for o in operands) and torch.Tag.nondeterministic_seeded not in target.tags:
        with torch.no_grad():
            return target(*fx.map_arg(node.args, values.__getitem__), **fx.map_arg(node.kwargs, values.__getitem__))
    if op_name(node) not in _HANDLERS:
        raise UnsupportedError("unknown to the compiler")
    results = results_of(node)
    if results[0].dtype not in _DTYPES:
        raise UnsupportedError(f"its result is {str(results[0].dtype)[6:]}; only float32 is supported")
    given = _arguments(node, target)
    dtypes = {name: results_of(a)[0].dtype for name, a in given.items() if isinstance(a, fx.Node) and results_of(a)}
    arguments = {name: fx.map_arg(a, values.__getitem__) for name, a in given.items()}
    shapes = tuple(tuple(t.shape) for t in results)
    call = Call(op_name(node), arguments, shapes, results[0].dtype, dtypes, _used(node))
    return _HANDLERS[call.op](build, call)


def _used(node: fx.Node) -> frozenset[Any]:
    """The numbers of the results that somebody reads, of an operator that gives several."""
    return frozenset(user.args[1] for user in node.users if user.target is operator.getitem and user.users)


def _item(value: Any, index: Any) -> Any:
    if index >= len(value):
        raise UnsupportedError(f"its result number {index} (indices or statistics) is used")
    return value[index]


def results_of(node: fx.Node) -> list[torch.Tensor]:
    """The (fake) tensors that a node gives."""
    fake = node.meta["val"]
    return [t for t in (fake if isinstance(fake, tuple | list) else [fake]) if isinstance(t, torch.Tensor)]


def _arguments(node: fx.Node, target: torch._ops.OpOverload) -> dict[str, Any]:
    """All arguments by the names of the operator's schema, defaults filled in."""
    schema = target._schema.arguments
    given = {a.name: a.default_value for a in schema if a.has_default_value()}
    return given | {a.name: value for a, value in zip(schema, node.args, strict=False)} | dict(node.kwargs)


def _finish(graph: fx.Graph, inputs: tuple[Input, ...], survey: Survey, output: pytree.TreeSpec | None) -> Imported:
    build, outputs = survey.build, []
    build.layer = ""
    leaves = [_leaf(build, value, survey.values, outputs) for value in graph.output_node().args[0]]  # pyright: ignore
    structure = tuple(leaves) if output is None else pytree.tree_unflatten(leaves, output)
    inputs = tuple(replace(i, limit=build.limits.get(i.name)) for i in inputs)
    return Imported(build.finish(tuple(outputs)), inputs, describe_output(structure))


def _leaf(build: Builder, value: Any, values: Values, outputs: list[str]) -> Any:
    """One leaf of the output; a value that is returned twice is one output of the graph."""
    if not isinstance(value, fx.Node):
        return value
    name, dtype = values[value], value.meta["val"].dtype
    if dtype != torch.float32:
        raise UnsupportedError(f"the model returns a tensor of {str(dtype)[6:]}; only float32 is supported")
    if isinstance(name, torch.Tensor):
        name = build.constant(name)
    if name not in outputs:
        outputs.append(name)
    return OutputIndex(outputs.index(name))
