"""Ways into the IR. Each gives an `Imported`: the graph, and what a caller must pass and gets back."""

from monstera.compiler.frontends.imported import Imported, Input, UnsupportedError
from monstera.compiler.frontends.onnx_import import OnnxModel, from_onnx, is_onnx
from monstera.compiler.frontends.partition import Split, TorchCall
from monstera.compiler.frontends.torch_export import Traced, from_torch, split_torch, trace_torch

__all__ = [
    "Imported",
    "Input",
    "OnnxModel",
    "Split",
    "TorchCall",
    "Traced",
    "UnsupportedError",
    "from_onnx",
    "from_torch",
    "is_onnx",
    "split_torch",
    "trace_torch",
]
