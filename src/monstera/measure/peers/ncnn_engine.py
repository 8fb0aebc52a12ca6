"""ncnn: the network traced by torch, translated by pnnx, tried out in another process, then run in this one."""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from monstera.measure.answers import Inputs, arguments
from monstera.measure.peers import ncnn_net
from monstera.measure.peers.peer import Call, Peer, without

# The first answer includes the transformed weights of Winograd. Whoever needs longer takes no part in a race of
# milliseconds: 3-D convolutions run in a plain loop there.
FIRST_ANSWER_S = 30
# What pnnx calls them.
_TYPES = {torch.float32: "f32", torch.int64: "i64", torch.int32: "i32", torch.bool: "bool"}
_TRANSLATION_S = 300
# Winograd's transforms of 8x8 tiles lose some bits of fp32.
_TOLERANCE = 1e-3


def _ncnn(model: nn.Module, example: Inputs, threads: int) -> Call:
    args, kwargs = arguments(example)
    bound = inspect.signature(model.forward).bind(*args, **kwargs).args
    inputs = [np.ascontiguousarray(value.detach().numpy()) for value in bound]
    with tempfile.TemporaryDirectory(prefix="monstera-ncnn-") as name:
        folder = Path(name)
        _translate(model, bound, folder)
        np.savez(folder / ncnn_net.INPUTS, *inputs)
        try_out(folder, threads)
        net = ncnn_net.load(folder, threads)
    return lambda: ncnn_net.answer(net, inputs)


def _translate(model: nn.Module, args: Sequence[torch.Tensor], folder: Path) -> None:
    """Write net.param and net.bin into `folder`, weights in fp32.

    Raises:
        NotImplementedError: the network has operators that ncnn lacks.
        TimeoutError, RuntimeError: as for `run`.
    """
    import pnnx

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, tuple(args), check_trace=False)
        torch.jit.save(traced, folder / "net.pt")
    shapes = ",".join(f"[{','.join(map(str, value.shape))}]{_TYPES[value.dtype]}" for value in args)
    command = [pnnx.EXEC_PATH, "net.pt", f"inputshape={shapes}", "fp16=0"]
    command += [f"ncnnparam={ncnn_net.PARAM}", f"ncnnbin={ncnn_net.BIN}"]
    run(command, folder, _TRANSLATION_S, "pnnx")
    # pnnx leaves what it cannot translate under torch's name, as in Tensor.slice.
    layers = (line.split()[0] for line in (folder / ncnn_net.PARAM).read_text().splitlines())
    if lacking := sorted({layer for layer in layers if "." in layer}):
        raise NotImplementedError(f"ncnn has no {', '.join(lacking)}")


def try_out(folder: Path, threads: int) -> None:
    """Let a process of its own answer once, with the files in `folder`.

    Raises:
        TimeoutError, RuntimeError: as for `run`.
    """
    run([sys.executable, ncnn_net.__file__, str(folder), str(threads)], folder, FIRST_ANSWER_S, "ncnn")


def run(command: Sequence[str], folder: Path, limit_s: float, name: str) -> None:
    """Run a command in `folder`, silently; it is killed after `limit_s` seconds.

    Raises:
        TimeoutError: it was not done by then.
        RuntimeError: it failed or died; with the last line it said.
    """
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{name} gave no answer within {limit_s:g} s") from None
    if done.returncode < 0:
        raise RuntimeError(f"{name} died of {signal.Signals(-done.returncode).name}")
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"{name} failed: {last}")


NCNN = Peer("ncnn", _ncnn, without("ncnn", "pnnx"), tolerance=_TOLERANCE)
