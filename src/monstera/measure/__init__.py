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
    "Inputs",
    "Machine",
    "Macs",
    "Peer",
    "Row",
    "Timing",
    "WrongAnswerError",
    "compare",
    "count_macs",
    "fastest",
    "fma_peak_gflops",
    "from_json",
    "max_error",
    "peer",
    "pin",
    "race",
    "ratio",
    "read",
    "this_machine",
    "to_json",
    "write",
    "write_json",
]
