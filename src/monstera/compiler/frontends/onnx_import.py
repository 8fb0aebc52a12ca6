"""The door for ONNX: what counts as a model in this format, and how the shapes of its inputs are given."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from monstera.compiler.frontends.imported import Imported

if TYPE_CHECKING:
    from onnx import ModelProto

OnnxModel: TypeAlias = "str | os.PathLike[str] | ModelProto"
Shapes: TypeAlias = "Mapping[str, Sequence[int]] | Sequence[Sequence[int]]"
"""Shapes of the inputs: by name, or all of them in the file's order."""


def is_onnx(model: Any) -> TypeGuard[OnnxModel]:
    """Whether a model is a path or an `onnx.ModelProto`; does not import onnx."""
    return isinstance(model, str | os.PathLike) or type(model).__name__ == "ModelProto"


def from_onnx(model: OnnxModel, shapes: Shapes | None = None) -> Imported:
    """Turn an ONNX model of opset 13 to 21 into a graph, for inputs of exactly the given shapes.

    What follows from shapes and weights alone is computed here. One output is given as it is, several as a dict in the
    model's order.

    Args:
        model: the path of a file, or a `ModelProto` with its weights inside; neither is modified.
        shapes: by the name of the input, or one for each input in order. May be left out for inputs whose shape the
            model fixes.

    Raises:
        ImportError: the package onnx is not installed.
        FileNotFoundError: no such file, or one with its weights is missing.
        ValueError: not an ONNX model, another opset, dimensions without a size, shapes that do not fit, weights that
            are not finite.
        UnsupportedError: the model computes something that the IR has no operator for; all of it is listed.
    """
    try:
        from monstera.compiler.frontends.onnx_model import read
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise ImportError(
            "reading ONNX models takes the package onnx, which is not installed: run `pip install 'monstera[onnx]'`"
        ) from error
    return read(model, shapes)
