"""Sessions: pieces of a sequence one after another are the sequence at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import register_pytree_node

import monstera as ms

PIECE, PIECES, BATCH = 4, 5, 2


class Speech(nn.Module):
    """An LSTM and a GRU behind it, whose states come and go in a nest of names."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(7, 9, batch_first=True), nn.GRU(9, 17, 2, batch_first=True)

    def forward(self, cell, x, hidden, *, gru):
        y, (hidden, cell) = self.lstm(x, (hidden, cell))
        y, gru = self.gru(y, gru)
        return {"scores": y, "states": (hidden, [cell, None]), 3: Last(y[:, -1], gru)}


class Last(NamedTuple):
    scores: torch.Tensor
    state: torch.Tensor


CARRY = {"states.0": "hidden", "states.1.0": "cell", "3.1": "gru"}


@pytest.fixture(scope="module")
def speech() -> Speech:
    torch.manual_seed(0)
    return Speech().eval()


@pytest.fixture(scope="module")
def engine(speech) -> ms.Engine:
    return ms.compile(speech, states(PIECE))


@pytest.fixture(scope="module")
def sequence() -> torch.Tensor:
    return torch.randn(BATCH, PIECE * PIECES, 7, generator=torch.Generator().manual_seed(1))


def states(steps: int) -> dict[str, torch.Tensor]:
    """Zeros for all inputs."""
    small, large = torch.zeros(1, BATCH, 9), torch.zeros(2, BATCH, 17)
    return {"cell": small, "x": torch.zeros(BATCH, steps, 7), "hidden": small, "gru": large}


def test_pieces_are_the_whole_sequence(speech, engine, sequence):
    whole = speech(**states(0) | {"x": sequence})
    session = engine.session(CARRY)
    answers = [session(piece) for piece in sequence.split(PIECE, 1)]
    scores = torch.cat([answer["scores"] for answer in answers], 1)
    torch.testing.assert_close(scores, whole["scores"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(answers[-1]["states"][1][0], whole["states"][1][0], rtol=1e-5, atol=1e-5)


def test_a_session_that_is_reset_begins_again(engine, sequence):
    session = engine.session(CARRY)
    first, second = (session(x=sequence[:, :PIECE])["scores"] for _ in range(2))
    assert not torch.equal(first, second)
    session.reset()
    assert torch.equal(session(sequence[:, :PIECE])["scores"], first)


def test_sessions_of_one_engine_do_not_meet(engine, sequence):
    one, other = engine.session(CARRY), engine.session(CARRY)
    alone = [one(piece)["scores"] for piece in sequence.split(PIECE, 1)]
    one.reset()
    for piece, expected in zip(sequence.split(PIECE, 1), alone, strict=True):
        other(torch.ones_like(piece))
        assert torch.equal(one(piece)["scores"], expected)


def test_writing_to_an_answer_does_not_reach_the_state(engine, sequence):
    careful, careless = engine.session(CARRY), engine.session(CARRY)
    for piece in sequence.split(PIECE, 1):
        expected, answer = careful(piece)["scores"], careless(piece)
        assert torch.equal(answer["scores"], expected)
        for tensor in (*answer[3], answer["states"][0], answer["states"][1][0]):
            tensor.fill_(float("nan"))


def test_a_call_that_fails_leaves_the_state(engine, sequence):
    session, other = engine.session(CARRY), engine.session(CARRY)
    for each in (session, other):
        each(sequence[:, :PIECE])
    with pytest.raises(ValueError, match="'x' has shape"):
        session(sequence)
    assert torch.equal(session(sequence[:, :PIECE])["scores"], other(sequence[:, :PIECE])["scores"])


def test_it_works_on_a_loaded_artifact_with_numpy_in_and_out(engine, sequence, tmp_path):
    engine.save(tmp_path / "speech.monstera")
    loaded, session = ms.load(tmp_path / "speech.monstera").session(CARRY), engine.session(CARRY)
    for piece in sequence.split(PIECE, 1):
        scores = loaded(piece.numpy())["scores"]
        assert isinstance(scores, np.ndarray)
        np.testing.assert_array_equal(scores, session(piece)["scores"].numpy())


def test_a_whole_answer_may_be_the_state():
    layer = nn.Linear(3, 3).eval()
    session = ms.compile(layer, torch.ones(1, 3)).session({"": "input"})
    answers = [torch.from_numpy(session()) for _ in range(3)]
    torch.testing.assert_close(answers[2], layer(layer(layer(torch.zeros(1, 3)))))


@dataclass(init=False, repr=False, eq=False)
class Heard(dict):
    """An answer as the models of the transformers package give it: a dict that is a dataclass."""


register_pytree_node(
    Heard,
    lambda heard: ([*heard.values()], [*heard]),
    lambda values, names: Heard(zip(names, values, strict=True)),
    serialized_type_name="test_session.Heard",
)


class Words(nn.Module):
    """A GRU over words, which answers with a record, and with numbers as large as its words."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gru = nn.Embedding(11, 7), nn.GRU(7, 5, batch_first=True)

    def forward(self, ids, state, last):
        y, state = self.gru(self.table(ids), state)
        return Heard(scores=y, state=state, last=last + y[:, -1].sum(-1))


@pytest.fixture(scope="module")
def words() -> tuple[Words, ms.Engine]:
    torch.manual_seed(0)
    model = Words().eval()
    example = torch.zeros(BATCH, PIECE, dtype=torch.int64), torch.zeros(1, BATCH, 5), torch.zeros(BATCH).long()
    return model, ms.compile(model, example)


def test_a_record_gives_its_states_by_name(words):
    model, engine = words
    ids, last = torch.arange(BATCH * 2 * PIECE).view(BATCH, -1) % 11, torch.zeros(BATCH).long()
    whole = model(ids, torch.zeros(1, BATCH, 5), last)
    session = engine.session({"state": "state"})
    answers = [session(piece, last) for piece in ids.split(PIECE, 1)]
    scores = torch.cat([answer.scores for answer in answers], 1)
    torch.testing.assert_close(scores, whole["scores"], rtol=1e-5, atol=1e-5)


def test_what_is_computed_is_not_carried_to_whole_numbers(words):
    with pytest.raises(ValueError, match=r"output 'last' is float32 and cannot be carried to input 'last', .* int64"):
        words[1].session({"last": "last"})


@pytest.mark.parametrize(
    ("carry", "message"),
    [
        ({}, r"carry is empty; .*outputs 'scores' \[2, 4, 17\], 'states\.0' .*'3\.1' .*; inputs 'cell' \[1, 2, 9\]"),
        ({"states.2": "cell"}, r"the output 'states\.2', which is not there: outputs 'scores'"),
        ({"states.1.1": "cell"}, r"the output 'states\.1\.1', which is not there"),
        ({"states.0": "h0"}, r"the input 'h0', which is not there: .*inputs 'cell'"),
        ({"states.0": "cell", "states.1.0": "cell"}, "one input from several outputs"),
        ({"scores": "x"}, r"output 'scores' is \[2, 4, 17\] and cannot be carried to input 'x', which is \[2, 4, 7\]"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_with_what_there_is(engine, carry, message):
    with pytest.raises(ValueError, match=message):
        engine.session(carry)


def test_arguments_that_do_not_fit_are_refused(engine, sequence):
    session, piece = engine.session(CARRY), sequence[:, :PIECE]
    with pytest.raises(TypeError, match="'hidden' is carried by the session"):
        session(piece, hidden=torch.zeros(1, BATCH, 9))
    with pytest.raises(TypeError, match=r"at most 1 positional inputs \(x\), got 2; the session itself passes hidden"):
        session(piece, piece)
    with pytest.raises(TypeError, match="'x' was given twice"):
        session(piece, x=piece)
    with pytest.raises(TypeError, match="missing input 'x'"):
        session()
    with pytest.raises(TypeError, match="unknown input 'y'"):
        session(piece, y=piece)
