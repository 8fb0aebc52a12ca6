"""Read an ONNX model: the file, its version, the shapes of its inputs. `onnx_graph` translates what it computes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from monstera.compiler.frontends.imported import Imported, Input
from monstera.compiler.frontends.onnx_graph import translate
from monstera.compiler.frontends.onnx_import import OnnxModel, Shapes
from monstera.compiler.ir import Shape

OPSETS = range(13, 22)
_FIX = "give the shapes of the inputs: ms.compile(model, example) or ms.from_onnx(model, shapes)"


def read(model: OnnxModel, shapes: Shapes | None) -> Imported:
    """What `from_onnx` does, once onnx is known to be there."""
    if isinstance(model, str | os.PathLike):
        where, proto = str(model), _load(Path(model))
    else:
        where, proto = "the ONNX model", model
        if external := [t.name for t in proto.graph.initializer if uses_external_data(t)]:
            raise ValueError(
                f"{where}: the weight {external[0]!r} lies in another file that is not loaded; pass the path of the "
                "model, or call onnx.load_external_data_for_model(model, folder) first"
            )
        _check(where, proto)
    opset = _opset(proto, where)
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    return translate(proto, _inputs(proto.graph, shapes, where), opset)


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; expected an ONNX model")
    try:
        proto = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path}: not an ONNX model ({error}); expected a file that onnx.save wrote") from error
    external = {ExternalDataInfo(t).location for t in proto.graph.initializer if uses_external_data(t)}
    if missing := sorted(name for name in external if not (path.parent / name).is_file()):
        raise FileNotFoundError(f"{path}: its weights lie in {missing[0]!r} beside it, which is not there")
    # By path, since a large model does not fit into one message.
    _check(str(path), path)
    onnx.load_external_data_for_model(proto, str(path.parent))
    return proto


def _check(where: str, model: onnx.ModelProto | Path) -> None:
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: not a valid ONNX model: {error}") from error


def _opset(proto: onnx.ModelProto, where: str) -> int:
    versions = {o.domain: o.version for o in proto.opset_import}
    version = versions.get("", versions.get("ai.onnx"))
    if version is None:
        raise ValueError(f"{where}: uses no operators of ONNX's own domain; it has {sorted(versions)}")
    if version not in OPSETS:
        raise ValueError(
            f"{where}: expected opset {OPSETS[0]} to {OPSETS[-1]}, got {version}; export it anew, or convert it by "
            "onnx.version_converter.convert_version(model, 18)"
        )
    return version


def _inputs(graph: onnx.GraphProto, shapes: Shapes | None, where: str) -> tuple[Input, ...]:
    """The inputs in the file's order, those with a default value left out as that is what they are."""
    weights = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    infos = [i for i in graph.input if i.name not in weights]
    given = _by_name(shapes, [i.name for i in infos], where)
    sizes: dict[str, int] = {}
    inputs = tuple(Input(i.name, _shape(i, given.get(i.name), sizes, where), _dtype(i, where)) for i in infos)
    if unknown := [f"{i.name} {_printed(i)}" for i, input_ in zip(infos, inputs, strict=True) if -1 in input_.shape]:
        raise ValueError(f"{where}: dimensions of these inputs have no size: {', '.join(unknown)}; {_FIX}")
    return inputs


def _by_name(shapes: Shapes | None, names: list[str], where: str) -> Mapping[str, Shape]:
    if shapes is None:
        return {}
    if not isinstance(shapes, Mapping):
        if len(shapes) != len(names):
            raise ValueError(f"{where}: expected shapes of {len(names)} inputs ({', '.join(names)}), got {len(shapes)}")
        shapes = dict(zip(names, shapes, strict=True))
    if unknown := sorted(set(shapes) - set(names)):
        raise ValueError(f"{where}: no input is called {unknown[0]!r}; the inputs are {', '.join(names)}")
    return {name: tuple(int(n) for n in shape) for name, shape in shapes.items()}


def _shape(info: onnx.ValueInfoProto, given: Shape | None, sizes: dict[str, int], where: str) -> Shape:
    """The shape of one input, -1 where nobody says it; `sizes` holds what symbols were found to be."""
    tensor = info.type.tensor_type
    if given is None:
        return tuple(_size(d) for d in tensor.shape.dim) if tensor.HasField("shape") else (-1,)
    if not tensor.HasField("shape"):
        return given
    fits = len(given) == len(tensor.shape.dim)
    for d, n in zip(tensor.shape.dim, given, strict=False):
        expected = sizes.setdefault(d.dim_param, n) if d.dim_param else n if _size(d) == -1 else _size(d)
        fits = fits and n == expected
    if not fits:
        known = ", ".join(f"{name} = {n}" for name, n in sizes.items())
        raise ValueError(
            f"{where}: input {info.name!r}: expected {_printed(info)}{f' with {known}' if known else ''}, "
            f"got {list(given)}"
        )
    return given


def _size(d: onnx.TensorShapeProto.Dimension) -> int:
    # Exporters write 0 for a size that they do not know.
    return d.dim_value if d.dim_value > 0 else -1


def _printed(info: onnx.ValueInfoProto) -> str:
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return "of any shape"
    return f"[{', '.join(str(d.dim_value) if _size(d) > 0 else d.dim_param or '?' for d in tensor.shape.dim)}]"


def _dtype(info: onnx.ValueInfoProto, where: str) -> str:
    if not info.type.HasField("tensor_type"):
        raise ValueError(f"{where}: input {info.name!r} is a {info.type.WhichOneof('value')}; expected a tensor")
    return onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type).name
