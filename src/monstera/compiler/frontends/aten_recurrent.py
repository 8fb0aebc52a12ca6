"""Recurrent layers and cells of torch: for every layer and direction one product over all steps, then a `Recurrent`.

Inside, sequences are `[steps, batch, features]`. Biases stay where torch has them: that of the input goes to the
product, that of the state to the recurrence, where a GRU needs it behind its reset gate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import torch

from monstera.compiler.frontends.aten_movement import cut
from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.ir import Concat, Linear, Recurrent, Shape
from monstera.compiler.ir.ops import RecurrentKind

_KINDS: Mapping[str, RecurrentKind] = {kind: kind for kind in get_args(RecurrentKind)}


def _layers(build: Builder, call: Call) -> tuple[Value, ...]:
    _check(build, call)
    per = 4 if call["has_biases"] else 2
    params = [call["params"][i : i + per] for i in range(0, len(call["params"]), per)]
    kind, states, directions = _KINDS[call.op], _states(call), 1 + call["bidirectional"]
    x, lasts = _time_first(build, call["input"], call), []
    for layer in range(call["num_layers"]):
        sequences = []
        for i in range(layer * directions, (layer + 1) * directions):
            first = [one_state(build, s, i) for s in states]
            op = recurrent(build, kind, params[i], reverse=i % directions == 1, cell=_gives_cell(call, kind))
            y = direction(build, op, x, params[i], first)
            sequences.append(steps(build, y, 0, call.shapes[0][call["batch_first"]]))
            lasts.append(finals(build, op, y))
        x = joined(build, sequences, 2)
    return _time_first(build, x, call), *(joined(build, parts, 0) for parts in zip(*lasts, strict=True))


def _cell(build: Builder, call: Call) -> Value | tuple[Value, ...]:
    kind, states, x = _KINDS[call.op.removesuffix("_cell")], _states(call), call["input"]
    params = [call[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
    params = params if params[2] is not None else params[:2]
    op = recurrent(build, kind, params, reverse=False, cell=_gives_cell(call, kind))
    y = direction(build, op, build.reshaped(x, (1, *build.shape(x))), params, states)
    results = tuple(build.reshaped(v, call.shape) for v in finals(build, op, y))
    return results if op.kind == "lstm" else results[0]


def _check(build: Builder, call: Call) -> None:
    """Refuse what no `Recurrent` can say.

    Raises:
        UnsupportedError: projections of an LSTM, dropout in training mode.
    """
    if len({build.shape(s)[-1] for s in _states(call)}) > 1:
        raise UnsupportedError("an LSTM with projections (proj_size); build it without, or project by a linear layer")
    if call["train"] and call["dropout"] and call["num_layers"] > 1:
        raise UnsupportedError("dropout between layers in training mode, although the model is in eval mode")


def _gives_cell(call: Call, kind: RecurrentKind) -> bool:
    # An LSTM's cell is the last result, and seldom wanted.
    return kind == "lstm" and len(call.shapes) - 1 in call.used


def recurrent(build: Builder, kind: RecurrentKind, params: Sequence[Value], *, reverse: bool, cell: bool) -> Recurrent:
    """The recurrence of one layer and direction; `params` are (w_ih, w_hh) or (w_ih, w_hh, b_ih, b_hh)."""
    weight = build.param(build.known(params[1], "the weight"), "weight")
    bias = build.param(build.known(params[3], "the bias"), "bias") if len(params) > 2 else None
    return Recurrent(kind, weight, bias, reverse, cell)


def direction(build: Builder, op: Recurrent, x: Value, params: Sequence[Value], states: Sequence[Value]) -> str:
    """The states of one layer and direction after each step of `x`, and the final cell if the operator gives it."""
    weight = build.known(params[0], "the weight")
    bias = build.param(build.known(params[2], "the bias"), "bias") if len(params) > 2 else None
    length, batch, _ = build.shape(x)
    products = build.add(Linear(build.param(weight, "weight"), bias), (x,), (length, batch, len(weight)))
    return build.add(op, (products, *states), (length + op.cell, *build.shape(states[0])))


def finals(build: Builder, op: Recurrent, y: Value) -> tuple[Value, ...]:
    """The final state, and for an LSTM the final cell; where nobody asked for it a step stands in."""
    last = build.shape(y)[0] - 1
    state = steps(build, y, 0 if op.reverse else last - op.cell, 1)
    return (state, steps(build, y, last, 1)) if op.kind == "lstm" else (state,)


def steps(build: Builder, y: Value, start: int, count: int) -> Value:
    """So many steps of `[steps, batch, hidden]` from one on."""
    return cut(build, y, {0: range(start, start + count)})


def _states(call: Call) -> list[Value]:
    """The initial state, and for an LSTM the initial cell."""
    return [*call["hx"]] if isinstance(call["hx"], Sequence) and not isinstance(call["hx"], str) else [call["hx"]]


def one_state(build: Builder, states: Value, index: int) -> Value:
    """The initial state of one layer and direction, `[batch, hidden]`, of those of all."""
    if isinstance(states, torch.Tensor):
        return states[index]
    shape: Shape = build.shape(states)[1:]
    return build.reshaped(steps(build, states, index, 1), shape)


def _time_first(build: Builder, x: Value, call: Call) -> Value:
    """`[steps, batch, features]` from the order that the layer has it in, or back: the two swaps are the same."""
    return build.permuted(x, (1, 0, 2)) if call["batch_first"] else x


def joined(build: Builder, parts: Sequence[Value], dim: int) -> Value:
    """Values of one shape, one after another along a dimension."""
    shape = list(build.shape(parts[0]))
    shape[dim] *= len(parts)
    return parts[0] if len(parts) == 1 else build.add(Concat(dim), tuple(parts), tuple(shape))


RECURRENT: Mapping[str, Callable[[Builder, Call], Value | tuple[Value, ...]]] = {
    **dict.fromkeys(_KINDS, _layers),
    **dict.fromkeys((f"{kind}_cell" for kind in _KINDS), _cell),
}
