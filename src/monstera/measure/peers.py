"""The engines that Monstera is measured against, and Monstera itself: one small value each.

Every engine gets the same network, the same input and the same number of threads, and is set the way its own manual
says is fastest for one request at a time in fp32.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monstera.measure.answers import Inputs, arguments

Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """An engine: what it is called, what it lacks to run here, and how it is made ready.

    `prepare(model, example, threads)` returns a call that runs the network once on `example` and returns its answer;
    `missing()` says in a few words why that would fail on this machine, and nothing if it would not. A guest that
    fails all the same is excused with a note; an engine that is no guest is ours, and its failures are raised.
    torch has one thread count for the whole process, so calls of its engines run inside `torch_threads(threads)`.
    """

    name: str
    prepare: Callable[[nn.Module, Inputs, int], Call]
    missing: Callable[[], str] = lambda: ""
    guest: bool = True


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch use `threads` threads inside, and what it used before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _monstera(model: nn.Module, example: Inputs, threads: int) -> Call:
    from monstera.compiler import compile as compile_native

    engine = compile_native(model, example, threads=threads)
    args, kwargs = _as_numpy(example)
    return lambda: engine(*args, **kwargs)


def _eager(model: nn.Module, example: Inputs, _: int) -> Call:
    args, kwargs = arguments(example)

    def call() -> Any:
        with torch.inference_mode():
            return model(*args, **kwargs)

    return call


def _inductor(model: nn.Module, example: Inputs, threads: int) -> Call:
    from torch._inductor import config

    args, kwargs = arguments(example)
    compiled = torch.compile(model)

    def call() -> Any:
        with torch.no_grad():
            return compiled(*args, **kwargs)

    # Freezing folds batch norm and packs the weights; it is read when the first call compiles.
    with config.patch(freezing=True), torch_threads(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call()
    return call


def _inductor_missing() -> str:
    return "" if shutil.which(os.environ.get("CXX", "g++")) else "needs a C++ compiler"


def _onnxruntime(model: nn.Module, example: Inputs, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its idle threads would otherwise spin on into the turn of the next engine.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with _onnx_file(model, example) as path:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = _feed([entry.name for entry in session.get_inputs()], example)
    return lambda: session.run(None, feed)


def _openvino(model: nn.Module, example: Inputs, threads: int) -> Call:
    import openvino

    core = openvino.Core()
    settings = {
        # Without it OpenVINO computes in bf16 wherever the CPU can.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
    }
    with _onnx_file(model, example) as path:
        compiled = core.compile_model(core.read_model(path), "CPU", settings)
    request = compiled.create_infer_request()
    feed = _feed([entry.get_any_name() for entry in compiled.inputs], example)
    return lambda: tuple(request.infer(feed, share_inputs=True, share_outputs=True).values())


@contextmanager
def _onnx_file(model: nn.Module, example: Inputs) -> Iterator[Path]:
    """Export `model` to an ONNX file that is gone afterwards (weights beside it, so that any size goes)."""
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
    args, kwargs = _as_numpy(example)
    return {name: kwargs[name] for name in names} if kwargs else dict(zip(names, args, strict=True))


def _without(*packages: str) -> Callable[[], str]:
    def missing() -> str:
        absent = [package for package in packages if find_spec(package) is None]
        return f"needs {', '.join(absent)} (pip install 'monstera[bench]')" if absent else ""

    return missing


def _as_numpy(example: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = arguments(example)
    return tuple(_array(value) for value in args), {name: _array(value) for name, value in kwargs.items()}


def _array(value: Any) -> Any:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value


MONSTERA = Peer("monstera", _monstera, guest=False)
EAGER = Peer("torch eager", _eager)
INDUCTOR = Peer("torch.compile", _inductor, _inductor_missing)
ONNX_RUNTIME = Peer("onnxruntime", _onnxruntime, _without("onnxruntime", "onnx", "onnxscript"))
OPENVINO = Peer("openvino", _openvino, _without("openvino", "onnx", "onnxscript"))

# Names for the command line; everything else passes the values around.
PEERS = {peer.name: peer for peer in (MONSTERA, EAGER, INDUCTOR, ONNX_RUNTIME, OPENVINO)}


def peer(name: str) -> Peer:
    """Return the engine of that name.

    Raises:
        ValueError: there is no such engine; the message lists those there are.
    """
    if name not in PEERS:
        raise ValueError(f"no engine is called {name!r}; there are {', '.join(PEERS)}")
    return PEERS[name]
