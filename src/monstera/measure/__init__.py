"""Measures engines against each other: the same network, answers compared first, then interleaved rounds."""

from monstera.measure.answers import Inputs, WrongAnswerError, max_error
from monstera.measure.comparison import Entry, compare
from monstera.measure.machine import Machine, pin, this_machine
from monstera.measure.macs import Macs, count_macs
from monstera.measure.peak import fma_peak_gflops
from monstera.measure.peers import (
    EAGER,
    FP32,
    INDUCTOR,
    MONSTERA,
    NCNN,
    ONNX_RUNTIME,
    OPENVINO,
    OPENVINO_DEFAULT,
    PEERS,
    Peer,
    peer,
)
from monstera.measure.result import Comparison, Row, fastest, from_json, read, to_json, write, write_json
from monstera.measure.timing import Timing, race, ratio
from monstera.measure.workloads import (
    Holes,
    dense_network,
    holes,
    input_size,
    sparse_copy,
    trained_network,
    uneven_scores,
)

__all__ = [
    "EAGER",
    "FP32",
    "INDUCTOR",
    "MONSTERA",
    "NCNN",
    "ONNX_RUNTIME",
    "OPENVINO",
    "OPENVINO_DEFAULT",
    "PEERS",
    "Comparison",
    "Entry",
    "Holes",
    "Inputs",
    "Machine",
    "Macs",
    "Peer",
    "Row",
    "Timing",
    "WrongAnswerError",
    "compare",
    "count_macs",
    "dense_network",
    "fastest",
    "fma_peak_gflops",
    "from_json",
    "holes",
    "input_size",
    "max_error",
    "peer",
    "pin",
    "race",
    "ratio",
    "read",
    "sparse_copy",
    "this_machine",
    "to_json",
    "trained_network",
    "uneven_scores",
    "write",
    "write_json",
]
