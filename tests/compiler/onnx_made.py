"""ONNX models made for tests: nodes in onnx's text form, weights at random, and what ONNX Runtime computes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper, parser

Arrays = Mapping[str, np.ndarray]


def weights(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Normally distributed fp32 arrays by name."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def ints(**values: Sequence[int] | int) -> dict[str, np.ndarray]:
    """int64 arrays by name: shapes, axes, pads."""
    return {name: np.array(value, np.int64) for name, value in values.items()}


def made(
    nodes: str,
    inputs: Mapping[str, Sequence[int | str]],
    constants: Arrays | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 18,
    dtype: int | Mapping[str, int] = onnx.TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model of nodes such as "y = Relu(x)", one a line, with inputs of these shapes, fp32 by default."""
    dtypes = dtype if isinstance(dtype, Mapping) else dict.fromkeys(inputs, dtype)
    graph = helper.make_graph(
        # onnx's own text form takes double quotes only.
        [parser.parse_node(line.strip().replace("'", '"')) for line in nodes.strip().splitlines()],
        "made",
        [
            helper.make_tensor_value_info(name, dtypes.get(name, onnx.TensorProto.FLOAT), shape)
            for name, shape in inputs.items()
        ],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ()) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    for output in model.graph.output:
        # Shapes must be there; nobody trusts them.
        output.type.tensor_type.shape.dim.add().dim_param = "anything"
    return model


def answers(model: onnx.ModelProto, inputs: Arrays) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes, without rewriting the model first, by the name of the output."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(inputs)), strict=True))
