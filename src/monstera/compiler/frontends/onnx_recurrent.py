"""Recurrent layers of ONNX, in one direction or both: torch's, with gates in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from monstera.compiler.frontends.aten_recurrent import direction, finals, joined, one_state, recurrent, steps
from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.frontends.onnx_call import Rule
from monstera.compiler.ir.ops import RecurrentKind, Sizes


@dataclass(frozen=True, slots=True)
class _Layer:
    """What torch calls a layer, where its gates stand in ONNX's order, and the states that it carries."""

    kind: RecurrentKind
    gates: Sizes
    states: tuple[str, ...] = ("initial_h",)


# By ONNX's operator and its functions of gates, cells and states.
_LAYERS: Mapping[tuple[str, ...], _Layer] = {
    ("RNN", "Tanh"): _Layer("rnn_tanh", (0,)),
    ("RNN", "Relu"): _Layer("rnn_relu", (0,)),
    ("GRU", "Sigmoid", "Tanh"): _Layer("gru", (1, 0, 2)),
    ("LSTM", "Sigmoid", "Tanh", "Tanh"): _Layer("lstm", (0, 2, 3, 1), ("initial_h", "initial_c")),
}
_DEFAULT = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}


def _recurrent(build: Builder, call: Call) -> tuple[Value, ...]:
    layer = _layer(build, call)
    # Opset 14 brought the batch in front.
    batch_first = bool(call.args.get("layout"))
    x = build.permuted(call["X"], (1, 0, 2)) if batch_first else call["X"]
    params = _params(build, call, layer)
    none = torch.zeros(len(params), build.shape(x)[1], build.shape(call["R"])[-1])
    states = [none if call[name] is None else call[name] for name in layer.states]
    if batch_first:
        states = [s if s is none else build.permuted(s, (1, 0, 2)) for s in states]
    sequences, lasts = [], []
    for i, parts in enumerate(params):
        reverse = i == 1 or call["direction"] == "reverse"
        op = recurrent(build, layer.kind, parts, reverse=reverse, cell=layer.kind == "lstm" and 2 in call.used)
        y = direction(build, op, x, parts, [one_state(build, s, i) for s in states])
        sequences.append(_one_direction(build, steps(build, y, 0, build.shape(x)[0])))
        lasts.append(finals(build, op, y))
    y, ends = joined(build, sequences, 1), [joined(build, ends, 0) for ends in zip(*lasts, strict=True)]
    if batch_first:
        return build.permuted(y, (2, 0, 1, 3)), *(build.permuted(end, (1, 0, 2)) for end in ends)
    return y, *ends


def _layer(build: Builder, call: Call) -> _Layer:
    """The layer that a call asks for.

    Raises:
        UnsupportedError: it has lengths, peepholes, bounds or functions that no `Recurrent` has.
    """
    directions, default = build.shape(call["W"])[0], _DEFAULT[call.op]
    given = tuple(call["activations"] or default * directions)
    # Every direction has functions of its own; onnx's own list for two stands for one as well.
    one, others = given[: len(default)], given[len(default) : len(default) * directions]
    if (call.op, *one) not in _LAYERS or others != one * (directions - 1):
        raise UnsupportedError(f"the functions {', '.join(given)}; expected {', '.join(default)} (or Relu of an RNN)")
    if call["sequence_lens"] is not None:
        raise UnsupportedError("sequences of different lengths (sequence_lens)")
    if call.op == "GRU" and not call["linear_before_reset"]:
        raise UnsupportedError("a reset gate before the product with the state; expected linear_before_reset=1")
    if call["clip"] is not None or call.args.get("input_forget") or call.args.get("P") is not None:
        raise UnsupportedError("peepholes, a clip, or input and forget gates that are coupled")
    return _LAYERS[(call.op, *one)]


def _params(build: Builder, call: Call, layer: _Layer) -> list[list[Value]]:
    """For every direction weights and biases as torch has them: of the input, of the state."""
    weights = [build.known(call[name], "the weight") for name in ("W", "R")]
    parts = [_ordered(w, layer.gates) for w in weights]
    if call["B"] is not None:
        parts += [_ordered(b, layer.gates) for b in build.known(call["B"], "the bias").chunk(2, 1)]
    return [[part[i] for part in parts] for i in range(len(weights[0]))]


def _ordered(stacked: torch.Tensor, gates: Sequence[int]) -> torch.Tensor:
    """Gates in torch's order; they are stacked along dimension 1."""
    parts = stacked.chunk(len(gates), 1)
    return torch.cat([parts[g] for g in gates], 1)


def _one_direction(build: Builder, y: Value) -> Value:
    """`[steps, batch, hidden]` as one of the directions in `[steps, directions, batch, hidden]`."""
    count, *rest = build.shape(y)
    return build.reshaped(y, (count, 1, *rest))


RECURRENT: Mapping[str, Rule] = dict.fromkeys(("RNN", "GRU", "LSTM"), _recurrent)
