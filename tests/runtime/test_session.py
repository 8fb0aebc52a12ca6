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
    with pytest.raises(
        TypeError, match=r"at most 1 positional inputs \(x\), got 2; the session takes x, and itself passes hidden"
    ):
        session(piece, piece)
    with pytest.raises(TypeError, match="'x' was given twice"):
        session(piece, x=piece)
    with pytest.raises(TypeError, match="missing input 'x'"):
        session()
    with pytest.raises(TypeError, match="unknown input 'y'"):
        session(piece, y=piece)


ROOM = 6


class Cumulative(nn.Module):
    """Means of all vectors so far and of their squares, by two caches of vectors, `step` more of them at a call."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x, count, kept, squares):
        y = x.transpose(1, self.dim)
        seen = (torch.arange(kept.shape[self.dim]) < count).float()
        seen = seen[:, None] if self.dim == 1 else seen
        total = count + x.shape[1]
        sums = [(k * seen).sum(self.dim) + z.sum(self.dim) for k, z in ((kept, y), (squares, y * y))]
        return {"means": torch.stack(sums) / total, "rows": (y, [y * y])}


KEPT = {"append": {"rows.0": "kept", "rows.1.0": "squares"}, "count": "count"}


def caches(step: int = 1, dim: int = 1, room: int = ROOM) -> tuple[torch.Tensor, ...]:
    kept = torch.zeros(BATCH, room, 3).transpose(1, dim).contiguous()
    return torch.zeros(BATCH, step, 3), torch.zeros(1, dtype=torch.int64), kept, kept.clone()


@pytest.fixture(scope="module", params=[1, 2], ids=["rows", "columns"])
def cumulative(request) -> ms.Engine:
    return ms.compile(Cumulative(request.param).eval(), caches(dim=request.param))


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    return torch.randn(BATCH, ROOM, 3, generator=torch.Generator().manual_seed(2))


def means(vectors: torch.Tensor) -> torch.Tensor:
    return torch.stack([vectors.mean(1), vectors.square().mean(1)])


def test_what_is_appended_is_there_at_all_later_calls(cumulative, vectors):
    session = cumulative.session(**KEPT)
    for _ in range(2):
        for i, x in enumerate(vectors.split(1, 1)):
            answer = session(x)
            torch.testing.assert_close(answer["means"], means(vectors[:, : i + 1]))
            for tensor in (answer["rows"][0], answer["rows"][1][0]):
                tensor.fill_(float("nan"))
        session.reset()


def test_a_full_cache_refuses_the_next_call_and_stays_as_it_is(cumulative, vectors):
    session = cumulative.session(**KEPT)
    for x in vectors.split(1, 1):
        session(x)
    before = session.state
    with pytest.raises(
        ValueError, match=r"caches are full: 6 of 6 places are taken, and a call adds 1; call reset\(\)"
    ):
        session(vectors[:, :1])
    for name, value in session.state.items():
        np.testing.assert_array_equal(value, before[name])


def test_a_call_that_fails_adds_nothing(cumulative, vectors):
    session = cumulative.session(**KEPT)
    session(vectors[:, :1])
    with pytest.raises(ValueError, match="'x' has shape"):
        session(vectors)
    torch.testing.assert_close(session(vectors[:, 1:2])["means"], means(vectors[:, :2]))


def test_a_state_goes_on_in_another_session_and_is_a_copy(cumulative, vectors, tmp_path):
    cumulative.save(tmp_path / "cumulative.monstera")
    one, other = cumulative.session(**KEPT), ms.load(tmp_path / "cumulative.monstera").session(**KEPT)
    for x in vectors[:, :3].split(1, 1):
        one(x)
    other.state = one.state
    one.state["kept"].fill(np.nan)
    assert one.state["count"].tolist() == [3]
    one.reset()
    torch.testing.assert_close(other(vectors[:, 3:4])["means"], means(vectors[:, :4]))


def test_an_engine_for_several_rows_fills_the_caches_for_one_that_takes_them_one_by_one(cumulative, vectors):
    dim = 1 if cumulative.manifest.inputs[2].shape[1] == ROOM else 2
    several = ms.compile(Cumulative(dim).eval(), caches(step=2, dim=dim)).session(**KEPT)
    session = cumulative.session(**KEPT)
    for x in vectors[:, :4].split(2, 1):
        several(x)
    session.state = several.state
    torch.testing.assert_close(session(vectors[:, 4:5])["means"], means(vectors[:, :5]))
    several(vectors[:, 4:])
    with pytest.raises(ValueError, match="6 of 6 places are taken, and a call adds 2"):
        several(vectors[:, 4:])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kept": None}, ValueError, r"expected the states kept, squares, count; got count, squares"),
        ({"more": np.zeros(1)}, ValueError, r"expected the states kept, squares, count; got .*more"),
        ({"kept": np.zeros((BATCH, 3), np.float32)}, ValueError, r"'kept' has shape \[2, 3\]"),
        ({"kept": np.zeros((BATCH, ROOM, 3))}, TypeError, r"'kept' is float64; expected float32"),
        ({"count": np.array([7])}, ValueError, r"'count' is \[7\.0\]; expected one count up to 6"),
        ({"count": np.array([-1])}, ValueError, r"'count' is \[-1\.0\]; expected one count up to 6"),
        ({"count": np.array([1.0])}, TypeError, r"'count' is float64; expected int64"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(vectors, change, error, message):
    session = ms.compile(Cumulative().eval(), caches()).session(**KEPT)
    session(vectors[:, :1])
    state = {name: value for name, value in (session.state | change).items() if value is not None}
    with pytest.raises(error, match=message):
        session.state = state
    torch.testing.assert_close(session(vectors[:, 1:2])["means"], means(vectors[:, :2]))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({}, r"carry is empty; .*outputs 'means' \[2, 2, 3\], 'rows\.0' .*; inputs 'x' \[2, 1, 3\]"),
        ({"append": {"rows.1": "kept"}, "count": "count"}, r"append names the output 'rows\.1', which is not there"),
        ({"append": {"rows.0": "cache"}, "count": "count"}, r"append names the input 'cache', which is not there"),
        ({"append": {"rows.0": "kept"}}, r"append needs count, .* inputs of whole numbers: count"),
        ({"append": {"rows.0": "kept"}, "count": "x"}, r"count='x' is no input of whole numbers; there are count"),
        ({"append": {"rows.0": "kept"}, "count": "n"}, r"count='n' is no input of whole numbers; there are count"),
        ({"carry": {"rows.0": "x"}, "count": "count"}, r"count='count' counts rows of caches; say with append"),
        (
            {"append": {"rows.0": "x"}, "count": "count"},
            r"'rows\.0' is \[2, 1, 3\] and cannot be appended to input 'x'",
        ),
        ({"append": {"means": "x"}, "count": "count"}, r"'means' is \[2, 2, 3\] .* equal in all others"),
        ({"append": {"rows.0": "count"}, "count": "count"}, r"appended to input 'count', which is int64"),
        (
            {"carry": {"rows.0": "x"}, "append": {"rows.1.0": "x"}, "count": "count"},
            r"'rows\.1\.0' .* cannot be appended",
        ),
        (
            {"append": {"rows.0": "kept", "rows.1.0": "kept"}, "count": "count"},
            r"one input from several outputs: carry=\{\}, append=",
        ),
    ],
)
def test_caches_that_do_not_fit_are_refused_with_what_there_is(keep, message):
    engine = ms.compile(Cumulative().eval(), caches())
    with pytest.raises(ValueError, match=message):
        engine.session(**keep)


def test_caches_of_different_lengths_are_refused():
    class Two(nn.Module):
        def forward(self, x, count, long, short):
            return long.sum() + short.sum() + count + x, x

    x = torch.zeros(1, 1, 3)
    args = x, torch.zeros(1, dtype=torch.int64), torch.zeros(1, 9, 3), torch.zeros(1, 8, 3)
    engine = ms.compile(Two().eval(), args)
    engine.session(append={"1": "long"}, count="count")
    with pytest.raises(ValueError, match=r"same places and rows a call; got \(rows, places\) \[\(1, 8\), \(1, 9\)\]"):
        engine.session(append={"1": "long", "0": "short"}, count="count")


def test_calls_of_shapes_whose_states_differ_are_refused_and_change_nothing():
    class Tail(nn.Module):
        def forward(self, x: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.sum() + past.sum(), 2 * x

    engine = ms.compile(
        Tail().eval(), (torch.zeros(1, 4), torch.zeros(1, 4)), also=[(torch.zeros(1, 6), torch.zeros(1, 4))]
    )
    session = engine.session({"1": "past"})
    session(torch.ones(1, 4))
    before = session.state["past"]
    with pytest.raises(ValueError, match=r"gave \[1, 6\] for the input 'past', and the session keeps \[1, 4\]"):
        session(torch.ones(1, 6))
    assert session.state["past"].tolist() == before.tolist() == [[2.0] * 4]
