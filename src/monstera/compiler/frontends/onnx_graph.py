"""Walk over an ONNX graph and build ours, node by node: known values are computed, the others translated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import onnx
import torch
from onnx import defs, helper

from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import Imported, Input, OutputIndex, UnsupportedError, describe_output
from monstera.compiler.frontends.onnx_call import Rule
from monstera.compiler.frontends.onnx_elementwise import ELEMENTWISE
from monstera.compiler.frontends.onnx_layers import LAYERS
from monstera.compiler.frontends.onnx_logic import LOGIC
from monstera.compiler.frontends.onnx_movement import MOVEMENT
from monstera.compiler.frontends.onnx_nodes import (
    Known,
    arguments,
    array,
    computed,
    dense,
    fixed_shape,
    live,
    result_types,
)
from monstera.compiler.frontends.onnx_products import PRODUCTS
from monstera.compiler.frontends.onnx_recurrent import RECURRENT
from monstera.compiler.frontends.onnx_windows import WINDOWS
from monstera.compiler.ir import Constant, Graph, Shape, param_keys
from monstera.runtime import DTYPES

_RULES: Mapping[str, Rule] = {
    **LAYERS,
    **PRODUCTS,
    **WINDOWS,
    **RECURRENT,
    **ELEMENTWISE,
    **LOGIC,
    **MOVEMENT,
}
# Rules that are right for whole numbers and truth values, too.
_OF_ALL_NUMBERS = (*MOVEMENT, *LOGIC, *("Add", "Sub", "Mul", "Div", "Pow", "Neg", "Abs", "Sum", "Clip", "ReduceSum"))

Result: TypeAlias = "str | Known | None"
"""What a name of the model stands for: a value of our graph, an array, or None where even the shape is unknown."""

_FLOAT = onnx.TensorProto.FLOAT
# What values of the graph may be; all of them are fp32 numbers there.
_DTYPES: Mapping[int, torch.dtype] = {
    helper.np_dtype_to_tensor_dtype(np.dtype(name)): getattr(torch, name) for name in DTYPES
}
# The two spellings of the domain of ONNX itself.
_OWN = ("", "ai.onnx")
_OF_SHAPES = ("Shape", "Size")
_UNKNOWN = "unknown to the compiler"
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")


def translate(model: onnx.ModelProto, inputs: tuple[Input, ...], opset: int) -> Imported:
    """Build the graph of a checked model without functions, whose inputs have these shapes.

    Raises:
        ValueError: a weight is not finite.
        UnsupportedError: lists every operator that the IR cannot say, with its node.
    """
    readable = [i for i in inputs if _element_type(i.dtype) in _DTYPES]
    walk = _Walk(opset, readable)
    for i in inputs:
        if i not in readable:
            walk.problems.append(f"  input {i.name!r} is {i.dtype}; expected {_listed(_DTYPES)}")
            walk.stand_in(i.name, helper.make_tensor_type_proto(_element_type(i.dtype), i.shape))
    walk.graph(model.graph, {o.name for o in model.graph.output})
    return walk.finish([o.name for o in model.graph.output], inputs)


@dataclass(slots=True)
class _Walk:
    """The walk so far.

    `dtypes` has those of names that are values of our graph, `needed` the names that the model reads. `tensors` are
    arrays as rules take them; the builder knows them by their identity, so all of them are `kept`.
    """

    opset: int
    inputs: Sequence[Input]
    values: dict[str, Result] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, tuple[Known, torch.Tensor]] = field(default_factory=dict)
    kept: list[torch.Tensor] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    needed: set[str] = field(default_factory=set)
    build: Builder = field(init=False)

    def __post_init__(self) -> None:
        self.build = Builder([(i.name, i.shape) for i in self.inputs], {})
        self.values.update({i.name: i.name for i in self.inputs})
        self.dtypes.update({i.name: _element_type(i.dtype) for i in self.inputs})

    def graph(self, graph: onnx.GraphProto, outputs: set[str]) -> None:
        """Translate all nodes of a graph that its outputs need."""
        for tensor in graph.initializer:
            self.values[tensor.name] = array(tensor)
        for sparse in graph.sparse_initializer:
            self.values[sparse.values.name] = dense(sparse)
        nodes, needed = live(graph.node, outputs)
        self.needed |= needed
        for node in nodes:
            self.build.layer = node.name or next(name for name in node.output if name)
            if node.op_type == "If" and node.domain in _OWN:
                self._branches(node)
            else:
                self._node(node)

    def stand_in(self, name: str, type_: onnx.TypeProto | None) -> None:
        """Go on without a value that cannot be computed, so that the operators after it can still be looked at."""
        shape = None if type_ is None else fixed_shape(type_)
        self.values[name] = None if shape is None else self.build.stand_in(shape)
        if type_ is not None:
            self.dtypes[name] = type_.tensor_type.elem_type

    def finish(self, outputs: list[str], inputs: tuple[Input, ...]) -> Imported:
        """The graph with these outputs, if nothing was in the way."""
        self.build.layer = ""
        names = [] if self.problems else [self._output(name) for name in outputs]
        if self.problems:
            raise UnsupportedError(
                "the compiler cannot express these operators of the model:\n" + "\n".join(self.problems)
            )
        distinct = list(dict.fromkeys(names))
        leaves = [OutputIndex(distinct.index(name)) for name in names]
        structure = leaves[0] if len(leaves) == 1 else dict(zip(outputs, leaves, strict=True))
        graph = self.build.finish(tuple(distinct))
        _check_weights(graph)
        inputs = tuple(replace(i, limit=self.build.limits.get(i.name)) for i in inputs)
        return Imported(graph, inputs, describe_output(structure))

    def _output(self, name: str) -> str:
        value = self.values[name]
        dtype = _element_type(value.dtype.name) if isinstance(value, np.ndarray) else self.dtypes[name]
        if dtype != _FLOAT:
            self.problems.append(f"  output {name!r} is {_named(dtype)}; only float32 is supported")
            return name
        assert value is not None, "a value of unknown shape is a problem that was written down"
        return value if isinstance(value, str) else self.build.constant(self._tensor(name, value))

    def _node(self, node: onnx.NodeProto) -> None:
        types: dict[str, onnx.TypeProto] = {}
        try:
            schema = self._schema(node)
            if known := self._folded(node):
                self.values.update(known)
                return
            types = self._types(node, schema)
            self._translate(node, schema, types)
        except UnsupportedError as error:
            if str(error):
                self.problems.append(f"  {node.op_type} in {self.build.layer}: {error}")
            for name in node.output:
                self.stand_in(name, types.get(name))

    def _schema(self, node: onnx.NodeProto) -> defs.OpSchema:
        if node.domain not in _OWN:
            raise UnsupportedError(f"the operator belongs to {node.domain!r}; only ONNX's own are supported")
        return defs.get_schema(node.op_type, self.opset, "")

    def _folded(self, node: onnx.NodeProto) -> dict[str, Known] | None:
        """The results of a node that needs nothing but values or shapes known here."""
        operands = {name: self.values[name] for name in node.input if name}
        if node.op_type in _OF_SHAPES and isinstance(x := operands[node.input[0]], str):
            operands[node.input[0]] = np.empty(self.build.shape(x), np.bool_)
        known = {name: x for name, x in operands.items() if isinstance(x, np.ndarray)}
        if len(known) < len(operands) or node.op_type in _RANDOM or any(a.HasField("g") for a in node.attribute):
            return None
        return computed(node, known, self.opset)

    def _types(self, node: onnx.NodeProto, schema: defs.OpSchema) -> dict[str, onnx.TypeProto]:
        """The types of the results, if those of the operands are known."""
        operands = {name: self.values[name] for name in node.input if name}
        if any(x is None for x in operands.values()) or any(a.HasField("g") for a in node.attribute):
            # What made a lost operand is on the list already; this node joins it only if it would be there anyway.
            raise UnsupportedError("" if node.op_type in (*_RULES, *_OF_SHAPES) else _UNKNOWN)
        types = {name: self._type(name, x) for name, x in operands.items()}
        known = {name: x for name, x in operands.items() if isinstance(x, np.ndarray)}
        try:
            return result_types(node, schema, types, known, self.opset)
        except UnsupportedError as error:
            raise UnsupportedError(str(error) if node.op_type in _RULES else _UNKNOWN) from error

    def _type(self, name: str, value: Result) -> onnx.TypeProto:
        if isinstance(value, np.ndarray):
            return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        assert value is not None
        return helper.make_tensor_type_proto(self.dtypes[name], self.build.shape(value))

    def _translate(self, node: onnx.NodeProto, schema: defs.OpSchema, types: Mapping[str, onnx.TypeProto]) -> None:
        if node.op_type not in _RULES:
            raise UnsupportedError(_UNKNOWN)
        if any(self.dtypes[name] not in _DTYPES for name in node.input if isinstance(self.values.get(name), str)):
            # Whatever gave a value of another type is on the list already.
            raise UnsupportedError
        shapes = [fixed_shape(types[name]) for name in node.output if name]
        if None in shapes:
            raise UnsupportedError("the shape of its result depends on values that are not known")
        if empty := [shape for shape in shapes if shape is not None and any(n < 1 for n in shape)]:
            raise UnsupportedError(f"its result has the shape {empty[0]}, and no element")
        call = self._call(node, schema, types, tuple(shape for shape in shapes if shape is not None))
        results = _RULES[node.op_type](self.build, call)
        results = results if isinstance(results, tuple) else (results,)
        for name, result in zip(node.output, results, strict=False):
            self._give(name, result, types)
        if more := self.needed.intersection(node.output[len(results) :]):
            raise UnsupportedError(f"its result {more.pop()!r} (indices or statistics) is used")

    def _call(
        self,
        node: onnx.NodeProto,
        schema: defs.OpSchema,
        types: Mapping[str, onnx.TypeProto],
        shapes: tuple[Shape, ...],
    ) -> Call:
        """What a rule is told of a node."""
        dtype = types[next(filter(None, node.output))].tensor_type.elem_type
        expected = _DTYPES if node.op_type in _OF_ALL_NUMBERS else (_FLOAT,)
        if dtype not in expected:
            raise UnsupportedError(f"its result is {_named(dtype)}; expected {_listed(expected)}")
        operands = [self._operand(name) if name else None for name in node.input]
        dtypes = {
            formal.name: x.dtype if isinstance(x, torch.Tensor) else _DTYPES[self.dtypes[name]]
            for formal, name, x in zip(schema.inputs, node.input, operands, strict=False)
            if x is not None
        }
        used = frozenset(i for i, name in enumerate(node.output) if name and name in self.needed)
        return Call(node.op_type, arguments(node, schema, operands), shapes, _DTYPES[dtype], dtypes, used)

    def _give(self, name: str, result: Value, types: Mapping[str, onnx.TypeProto]) -> None:
        if not isinstance(result, str):
            self.values[name] = result.numpy()
        elif name:
            self.values[name] = result
            self.dtypes[name] = types[name].tensor_type.elem_type

    def _operand(self, name: str) -> Value:
        value = self.values[name]
        assert value is not None
        return value if isinstance(value, str) else self._tensor(name, value)

    def _tensor(self, name: str, value: Known) -> torch.Tensor:
        """An array as the rules take it: the same tensor each time, which the builder calls by its name."""
        held, tensor = self.tensors.get(name, (None, None))
        if held is value and tensor is not None:
            return tensor
        try:
            tensor = torch.from_numpy(np.array(value))
        except TypeError:
            raise UnsupportedError(f"its operand {name!r} is {value.dtype}; only float32 is supported") from None
        # Keys that the builder makes up have a colon; and branches may give one name to two arrays.
        if ":" not in name and held is None:
            self.build.keys[id(tensor)] = name
        self.tensors[name] = value, tensor
        self.kept.append(tensor)
        return tensor

    def _branches(self, node: onnx.NodeProto) -> None:
        """The branch that a condition chooses; where it is not known, both, for what else they cannot do."""
        condition = self.values[node.input[0]]
        branches = {a.name: a.g for a in node.attribute}
        if isinstance(condition, np.ndarray):
            self._branch(node, branches["then_branch" if condition.item() else "else_branch"])
            return
        if condition is not None:
            self.problems.append(f"  If in {self.build.layer}: the condition is computed from the input")
        for branch in branches.values():
            self._branch(node, branch)

    def _branch(self, node: onnx.NodeProto, branch: onnx.GraphProto) -> None:
        self.graph(branch, {o.name for o in branch.output})
        for name, inner in zip(node.output, branch.output, strict=True):
            self.values[name] = self.values[inner.name]
            if inner.name in self.dtypes:
                self.dtypes[name] = self.dtypes[inner.name]


def _check_weights(graph: Graph) -> None:
    """Weights must be finite; other constants may be infinite, as bounds and masks are."""
    weights = {key for n in graph.nodes if not isinstance(n.op, Constant) for key in param_keys(n.op)}
    for key, value in graph.params.items():
        if np.isnan(value).any() or (key in weights and not np.isfinite(value).all()):
            raise ValueError(f"NaN or infinite values in {key!r}; the model cannot be compiled")


def _element_type(dtype: str) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _listed(dtypes: Iterable[int]) -> str:
    return ", ".join(_named(dtype) for dtype in dtypes)


def _named(dtype: int) -> str:
    return helper.tensor_dtype_to_np_dtype(dtype).name
