"""Engines that read ONNX: ONNX Runtime, and OpenVINO held to fp32 or left to choose."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monstera.measure.answers import Inputs, arguments
from monstera.measure.peers.peer import Call, Peer, as_numpy, without

# bf16 keeps 8 bits: a deep network with random weights is off by up to an eighth of its largest output.
_DEFAULT_TOLERANCE = 0.25
_NAMES = {"f32": "fp32", "f16": "fp16"}


def _onnxruntime(model: nn.Module, example: Inputs, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its idle threads would otherwise spin on into the turn of the next engine.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with onnx_file(model, example) as path:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = _feed([entry.name for entry in session.get_inputs()], example)
    return lambda: session.run(None, feed)


def _openvino_f32(model: nn.Module, example: Inputs, threads: int) -> Call:
    # Without the hint OpenVINO computes in bf16 wherever the CPU can.
    return _openvino(model, example, threads, {"INFERENCE_PRECISION_HINT": "f32"})


def _openvino_default(model: nn.Module, example: Inputs, threads: int) -> Call:
    return _openvino(model, example, threads, {})


def _openvino(model: nn.Module, example: Inputs, threads: int, hints: Mapping[str, str]) -> Call:
    import openvino

    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": threads, **hints}
    with onnx_file(model, example) as path:
        compiled = core.compile_model(core.read_model(path), "CPU", settings)
    request = compiled.create_infer_request()
    feed = _feed([entry.get_any_name() for entry in compiled.inputs], example)
    return lambda: tuple(request.infer(feed, share_inputs=True, share_outputs=True).values())


def _openvino_chooses() -> str:
    """The type that OpenVINO computes in where it is not told: bf16 on processors with instructions for it."""
    import openvino

    chosen = str(openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name())
    return _NAMES.get(chosen, chosen)


@contextmanager
def onnx_file(model: nn.Module, example: Inputs) -> Iterator[Path]:
    """Export `model` by torch's exporter to an ONNX file that is gone afterwards (weights may lie beside it)."""
    args, kwargs = arguments(example)
    log = logging.getLogger("torch.onnx")
    level = log.level
    with tempfile.TemporaryDirectory(prefix="monstera-onnx-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(model, args, str(path), kwargs=kwargs, dynamo=True, verbose=False)
        finally:
            log.setLevel(level)
        yield path


def _feed(names: list[str], example: Inputs) -> dict[str, Any]:
    """Give every input of an ONNX file its array: by name where the example has names, else in order."""
    args, kwargs = as_numpy(example)
    return {name: kwargs[name] for name in names} if kwargs else dict(zip(names, args, strict=True))


ONNX_RUNTIME = Peer("onnxruntime", _onnxruntime, without("onnxruntime", "onnx", "onnxscript"))
OPENVINO = Peer("openvino", _openvino_f32, without("openvino", "onnx", "onnxscript"))
OPENVINO_DEFAULT = Peer(
    "openvino default",
    _openvino_default,
    OPENVINO.missing,
    tolerance=_DEFAULT_TOLERANCE,
    precision=_openvino_chooses,
)
