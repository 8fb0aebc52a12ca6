"""What onnx itself says of the nodes of a graph: which are needed, what they compute, what comes out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.ir import Shape

Known: TypeAlias = np.ndarray

# Shape inference looks at arrays that are shapes, axes, pads or scales, and must not be sent whole weights.
_LARGEST_SHAPE = 1024
# Up to opset 15 shape inference says nothing of these; it does of others with the same result.
_ALIKE = {"LessOrEqual": "Less", "GreaterOrEqual": "Greater"}


def live(nodes: Sequence[onnx.NodeProto], outputs: set[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that outputs need, in order, and all names that they read or give out."""
    needed, live = set(outputs), []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            live.append(node)
            needed |= reads(node)
    return live[::-1], needed


def reads(node: onnx.NodeProto) -> set[str]:
    """The names that a node or the graphs in it read."""
    graphs = [a.g for a in node.attribute if a.HasField("g")]
    inner = {name for g in graphs for n in g.node for name in reads(n)} | {o.name for g in graphs for o in g.output}
    return set(node.input) | inner


def computed(node: onnx.NodeProto, operands: Mapping[str, Known], opset: int) -> dict[str, Known]:
    """What onnx's own evaluator makes of arrays."""
    names = [name for name in node.output if name]
    function = helper.make_function("monstera", "fold", [*operands], names, [node], [helper.make_opsetid("", opset)])
    try:
        results = ReferenceEvaluator(function).run(None, dict(operands), attributes={})
    except Exception as error:
        raise UnsupportedError(f"onnx cannot compute it from what is known: {error}") from error
    if not all(isinstance(r, np.ndarray | np.generic) for r in results):
        raise UnsupportedError("it gives something else than tensors")
    return {name: np.asarray(r) for name, r in zip(names, results, strict=True)}


def result_types(
    node: onnx.NodeProto,
    schema: defs.OpSchema,
    types: Mapping[str, onnx.TypeProto],
    known: Mapping[str, Known],
    opset: int,
) -> dict[str, onnx.TypeProto]:
    """The types of a node's results, as onnx infers them from those of its operands and from what is known of these.

    Raises:
        UnsupportedError: the operands do not fit the operator.
    """
    data = {name: numpy_helper.from_array(x) for name, x in known.items() if x.size <= _LARGEST_SHAPE}
    imports = [helper.make_opsetid("", opset)]
    if node.op_type in _ALIKE:
        node, given = onnx.NodeProto(), node
        node.CopyFrom(given)
        node.op_type = _ALIKE[given.op_type]
        schema = defs.get_schema(node.op_type, opset, "")
    try:
        return shape_inference.infer_node_outputs(schema, node, dict(types), data, opset_imports=imports)
    except (shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise UnsupportedError(f"its operands do not fit: {error}") from error


def fixed_shape(type_: onnx.TypeProto) -> Shape | None:
    tensor = type_.tensor_type
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)


def arguments(node: onnx.NodeProto, schema: defs.OpSchema, operands: Sequence[Any]) -> dict[str, Any]:
    """Operands and attributes by the names of the operator's schema, defaults filled in, None where left out."""
    given: dict[str, Any] = {
        name: helper.get_attribute_value(a.default_value) if a.default_value.type else None
        for name, a in schema.attributes.items()
    }
    given |= {a.name: helper.get_attribute_value(a) for a in node.attribute}
    given = {name: _text(value) for name, value in given.items()}
    operands = [*operands]
    if schema.inputs and schema.inputs[-1].option == defs.OpSchema.FormalParameterOption.Variadic:
        rest = len(schema.inputs) - 1
        operands = [*operands[:rest], tuple(operands[rest:])]
    operands += [None] * (len(schema.inputs) - len(operands))
    return given | {formal.name: x for formal, x in zip(schema.inputs, operands, strict=True)}


def _text(value: Any) -> Any:
    """An attribute with its bytes as text."""
    if isinstance(value, list):
        return [_text(v) for v in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def array(tensor: onnx.TensorProto) -> Known:
    """A tensor of the model.

    Raises:
        ValueError: it is of a type that onnx does not know, or has less or more data than its shape says.
    """
    try:
        return numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the weight {tensor.name!r} of the ONNX model cannot be read: {error}") from error


def dense(sparse: onnx.SparseTensorProto) -> Known:
    """A tensor whose zeros the model leaves out."""
    values, indices = array(sparse.values), array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense
