"""Measures engines against each other: the same network, answers compared first, then interleaved rounds."""

from monstera.measure.answers import Inputs, WrongAnswerError, max_error, reference
from monstera.measure.bandwidth import Bandwidth, read_bandwidths
from monstera.measure.cases import Case, profile_cases, race_cases
from monstera.measure.choices import fastest_of, held_to, in_blocks
from monstera.measure.comparison import Entry, compare
from monstera.measure.machine import Machine, pin, this_machine
from monstera.measure.macs import Macs, count_macs
from monstera.measure.peak import Pace, fma_peak_gflops
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
    monstera,
    peer,
)
from monstera.measure.result import Comparison, Row, fastest, from_json, read, to_json, write, write_json
from monstera.measure.study import (
    Point,
    Study,
    fma_peaks,
    make_study,
    read_study,
    study_from_json,
    study_to_json,
    write_study,
)
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
    "Bandwidth",
    "Case",
    "Comparison",
    "Entry",
    "Holes",
    "Inputs",
    "Machine",
    "Macs",
    "Pace",
    "Peer",
    "Point",
    "Row",
    "Study",
    "Timing",
    "WrongAnswerError",
    "compare",
    "count_macs",
    "dense_network",
    "fastest",
    "fastest_of",
    "fma_peak_gflops",
    "fma_peaks",
    "from_json",
    "held_to",
    "holes",
    "in_blocks",
    "input_size",
    "make_study",
    "max_error",
    "monstera",
    "peer",
    "pin",
    "profile_cases",
    "race",
    "race_cases",
    "ratio",
    "read",
    "read_bandwidths",
    "read_study",
    "reference",
    "sparse_copy",
    "study_from_json",
    "study_to_json",
    "this_machine",
    "to_json",
    "trained_network",
    "uneven_scores",
    "write",
    "write_json",
    "write_study",
]
