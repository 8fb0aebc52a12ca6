"""Puts networks and engines side by side: answers first, then times, in one process."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from torch import nn

from monstera.measure.answers import Inputs, WrongAnswerError, arguments, arrays, max_error, reference
from monstera.measure.machine import this_machine
from monstera.measure.macs import Macs, count_macs
from monstera.measure.peak import Pace
from monstera.measure.peers import Call, Peer, torch_threads
from monstera.measure.result import Comparison, Row
from monstera.measure.timing import Timing, race


@dataclass(frozen=True, slots=True)
class Entry:
    """One line to be measured: an engine and the network it runs; `weights` says which weights these are."""

    peer: Peer
    model: nn.Module
    weights: str = "dense"

    @property
    def label(self) -> str:
        """The engine and its weights as one name, unique within a comparison."""
        return f"{self.peer.name}, {self.weights}"


def compare(
    network: str,
    entries: Sequence[Entry],
    example: Inputs,
    *,
    threads: int = 1,
    rounds: int = 5,
    round_s: float = 0.3,
    on_step: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Measure every entry on `example`, batch as given, on `threads` threads.

    Every engine first answers, and its answer is compared with that of torch in float64 on the same weights; the peer's
    own tolerance bounds the difference, relative to the largest magnitude of the output. A guest that is absent, fails,
    takes too long or answers wrongly keeps its row, with a note in place of a time; Monstera's own failures are raised.
    Then all the others run in interleaved rounds while the machine keeps its pace (see `race`). `on_step(text)` is told
    what happens next. The models are left as they were.

    Raises:
        ValueError: a model in training mode, or two entries with the same engine and weights.
        WrongAnswerError: Monstera's answer is off by more than its tolerance.
    """
    _check(entries)
    models = {id(entry.model): entry.model for entry in entries}
    with torch_threads(threads):
        on_step("computing the right answers")
        answers = {key: reference(model, example) for key, model in models.items()}
        seats = []
        for entry in entries:
            on_step(f"preparing {entry.label}")
            seats.append(_seat(entry, example, threads, answers[id(entry.model)]))
        gc.collect()
        pace = Pace(threads, len(seats) * rounds * round_s)
        timings = race(
            {seat.entry.label: seat.call for seat in seats if seat.call is not None},
            rounds=rounds,
            round_s=round_s,
            pace=pace,
            on_round=lambda done: on_step(f"round {done} of {rounds} timed"),
        )
    macs = {key: count_macs(model, example) for key, model in models.items()}
    return Comparison(
        network=network,
        inputs=tuple(array.shape for array in arrays(arguments(example))),
        threads=threads,
        date=datetime.now(timezone.utc).date().isoformat(),
        machine=this_machine(),
        peak_gflops=pace.peak_gflops,
        rows=tuple(_row(seat, macs[id(seat.entry.model)], timings) for seat in seats),
    )


@dataclass(frozen=True, slots=True)
class _Seat:
    """An entry that is ready to run, or the reason why it is not."""

    entry: Entry
    call: Call | None = None
    error: float | None = None
    note: str = ""
    precision: str = ""


def _row(seat: _Seat, macs: Macs, timings: Mapping[str, Timing]) -> Row:
    entry = seat.entry
    timing = timings.get(entry.label)
    return Row(entry.peer.name, entry.weights, macs, seat.error, timing, seat.note, seat.precision)


def _check(entries: Sequence[Entry]) -> None:
    labels = [entry.label for entry in entries]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"these entries appear twice: {twice}; give them different `weights`")
    training = [entry.label for entry in entries if entry.model.training]
    if training:
        raise ValueError(f"in training mode: {training}; call model.eval() first")


def _seat(entry: Entry, example: Inputs, threads: int, answer: Any) -> _Seat:
    peer = entry.peer
    lacks = peer.missing()
    if lacks:
        return _Seat(entry, note=lacks)
    try:
        call = peer.prepare(entry.model, example, threads)
        error = max_error(call(), answer)
        if not error <= peer.tolerance:
            raise WrongAnswerError(f"off by {error:.1e} of the largest output, at most {peer.tolerance:.0e} expected")
        return _Seat(entry, call, error, precision=peer.precision())
    except Exception as reason:
        if not peer.guest:
            raise
        first_line = (str(reason).strip() or "no message").splitlines()[0]
        return _Seat(entry, note=f"{type(reason).__name__}: {first_line}")
