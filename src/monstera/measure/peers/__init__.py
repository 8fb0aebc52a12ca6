"""The engines that Monstera is measured against, and Monstera itself: one small value each.

Every engine gets the same network, the same input and the same number of threads, and is set the way its own manual
says is fastest for one request at a time: in fp32, but for "openvino default", which may choose.
"""

from __future__ import annotations

from monstera.measure.peers.ncnn_engine import NCNN
from monstera.measure.peers.onnx_engines import ONNX_RUNTIME, OPENVINO, OPENVINO_DEFAULT, onnx_file
from monstera.measure.peers.ours import MONSTERA, monstera
from monstera.measure.peers.peer import FP32, FP32_TOLERANCE, Call, Peer, torch_threads
from monstera.measure.peers.torch_engines import EAGER, INDUCTOR

__all__ = [
    "EAGER",
    "FP32",
    "FP32_TOLERANCE",
    "INDUCTOR",
    "MONSTERA",
    "NCNN",
    "ONNX_RUNTIME",
    "OPENVINO",
    "OPENVINO_DEFAULT",
    "PEERS",
    "Call",
    "Peer",
    "monstera",
    "onnx_file",
    "peer",
    "torch_threads",
]

# Names for the command line; everything else passes the values around.
PEERS = {engine.name: engine for engine in (MONSTERA, EAGER, INDUCTOR, ONNX_RUNTIME, OPENVINO, NCNN, OPENVINO_DEFAULT)}


def peer(name: str) -> Peer:
    """Return the engine of that name.

    Raises:
        ValueError: there is no such engine; the message lists those there are.
    """
    if name not in PEERS:
        raise ValueError(f"no engine is called {name!r}; there are {', '.join(PEERS)}")
    return PEERS[name]
