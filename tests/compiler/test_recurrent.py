"""Recurrent layers: interpreter and engine against torch at odd sizes, with holes, and what is refused."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import monstera as ms
from compiler.agreement import compare, exact_answers, torch_answers
from compiler.batch import compile_batch, narrower, run
from compiler.graphs import random_inputs
from compiler.recurrent_models import CELLS, HOLES, KINDS, cell, recurrent, with_example
from compiler.test_frontend import Function
from monstera.compiler import UnsupportedError
from monstera.compiler.frontends import from_torch
from monstera.compiler.ir import Conv, Graph, Linear, Node, Recurrent, error_bound, interpret
from monstera.compiler.lowering import lower, lower_with
from monstera.compiler.lowering.choice import Choice
from monstera.compiler.passes import channels_first, optimize
from monstera.compiler.targets import TARGETS, Target, native
from monstera.compiler.tuning import Table

HIDDEN, INPUTS, STEPS, BATCH = (1, 5, 16, 17, 33), (1, 7, 153), (1, 2, 9), (1, 2, 5)
# Plain layers on several threads and on other targets are left to the full matrix.
gated = pytest.mark.parametrize("kind", ["gru", "lstm"])
FORMS = [*itertools.product((1, 2), (False, True), (False, True), (False, True), (False, True))]


def models(kind: str, *, every: bool = False) -> dict[str, tuple[nn.Module, tuple[torch.Tensor, ...]]]:
    """Forms of a layer, and on the way every size and kind of holes with many others; a quarter of all, or `every` one.

    Each kind has a quarter of its own.
    """
    made = {}
    for i, (layers, both, first, bias, given) in enumerate(FORMS):
        if not every and i % 4 != [*KINDS].index(kind):
            continue
        sizes = (HIDDEN[i % 5], INPUTS[i // 2 % 3], STEPS[(i // 3 + i) % 3], BATCH[(i // 5 + i) % 3])
        hidden, inputs, steps, batch = sizes
        options = {"num_layers": layers, "bidirectional": both, "batch_first": first, "bias": bias}
        holes = HOLES[(i + i // 5) % 5]
        layer = recurrent(kind, inputs, hidden, holes, seed=i, **options)
        made[f"{sizes} {holes} {options} given {given}"] = with_example(layer, steps, batch, given=given)
    # Enough tokens for planes, and blocks of every size.
    for holes, batch in itertools.product(HOLES if every else ("16x1", "bcr"), (1, 3)):
        layer = recurrent(kind, 19, 37, holes, batch_first=True, bidirectional=batch == 3)
        made[f"planes, {holes}, {batch}"] = with_example(layer, 21, batch, given=batch == 3)
    return made


def agree(kind: str, threads: int = 1, target: Target | None = None, *, every: bool = False) -> None:
    """Engines, twice each as the second run finds a used arena, against the interpreter and torch in float64."""
    made = models(kind, every=every)
    graphs = [from_torch(model, example) for model, example in made.values()]
    runners = compile_batch(graphs, threads, target)
    for (name, (model, _)), graph, runner in zip(made.items(), graphs, runners, strict=True):
        inputs = random_inputs(graph.graph)
        theirs = exact_answers(model, graph, inputs)
        for _ in range(2):
            compare(f"{kind} {name}", graph.graph, inputs, run(runner, graph, inputs), theirs)


pytestmark = pytest.mark.usefixtures("nan_before_first_use")


@pytest.mark.parametrize("kind", KINDS)
def test_the_interpreter_computes_what_torch_does_in_double_precision(kind):
    for name, (model, example) in models(kind).items():
        imported = from_torch(model, example)
        inputs = {i.name: x.numpy() for i, x in zip(imported.inputs, example, strict=True)}
        exact = {key: array.astype(np.float64) for key, array in inputs.items()}
        theirs = torch_answers(copy.deepcopy(model).double(), imported, exact)
        ours = interpret(imported.graph, inputs)
        for value, expected in zip(imported.graph.outputs, theirs, strict=True):
            np.testing.assert_allclose(ours[value], expected.numpy(), rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_engines_agree_with_the_interpreter_and_with_torch(kind):
    agree(kind)


@gated
def test_engines_agree_on_two_threads(kind):
    agree(kind, threads=2)


@narrower
@gated
def test_engines_agree_on_the_narrower_instruction_set(kind):
    agree(kind, target=TARGETS["avx2"])


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_engines_of_every_form_agree(kind, threads):
    agree(kind, threads, every=True)
    if native().name == "avx512":
        agree(kind, threads, TARGETS["avx2"], every=True)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("bias", [False, True])
def test_cells_answer_as_in_torch(kind, bias):
    step = cell(kind, 7, 17, bias=bias)
    state = torch.randn(3, 17, generator=torch.Generator().manual_seed(0))

    def twice(self, x):
        # Called twice, so that a cell is what enters the second step.
        first = self.step(x[:, 0], (state, state) if kind == "lstm" else state)
        return self.step(x[:, 1], first), self.step(x[:, 1])

    model = Function(twice, step=step).eval()
    x = torch.randn(3, 2, 7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ms.compile(model, x)(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_sequence_without_a_batch_answers_as_in_torch():
    model, x = recurrent("lstm", 7, 5, batch_first=True), torch.randn(6, 7)
    torch.testing.assert_close(ms.compile(model, x)(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_model_still_runs_and_is_left_as_it_was():
    model, x = recurrent("gru", 7, 5, num_layers=2), torch.randn(6, 2, 7)
    before, answer = copy.deepcopy(model.state_dict()), model(x)
    ms.compile(model, x)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    torch.testing.assert_close(model(x), answer, rtol=0, atol=0)


def test_dropout_between_layers_does_nothing_in_inference():
    model, x = recurrent("gru", 7, 5, num_layers=2, dropout=0.9), torch.randn(6, 2, 7)
    torch.testing.assert_close(ms.compile(model, x)(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_gated_network_among_convolutions_answers_as_in_torch():
    """Planes before, tokens in the middle, planes behind; an in-place activation makes export rewrite the program."""
    torch.manual_seed(0)
    before, gru, after = (
        nn.Conv1d(5, 12, 3, padding=1),
        recurrent("gru", 12, 9, bidirectional=True),
        nn.Conv1d(18, 4, 3),
    )

    def run_all(self, x):
        y, _ = self.gru(nn.functional.relu(self.before(x), inplace=True).permute(2, 0, 1))
        return self.after(y.permute(1, 2, 0))

    model, x = Function(run_all, before=before, gru=gru, after=after).eval(), torch.randn(2, 5, 20)
    torch.testing.assert_close(ms.compile(model, x)(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_error_bound_holds_and_leaves_no_room_for_a_wrong_step():
    model, example = with_example(recurrent("gru", 7, 16), 9, 2, given=False)
    imported = from_torch(model, example)
    inputs = {"x": example[0].numpy()}
    (y, _), (value, _) = model(*example), imported.graph.outputs
    exact, bound = interpret(imported.graph, inputs)[value], error_bound(imported.graph, inputs)[value]
    assert (np.abs(y.detach().numpy() - exact) <= bound).all()
    assert bound[0].max() < 1e-5
    assert bound.max() < 1e-2


def test_nan_in_one_sequence_reaches_its_own_later_steps_only():
    model, (x,) = with_example(recurrent("gru", 7, 17), 6, 2, given=False)
    engine = ms.compile(model, x)
    x = x.clone()
    x[2, 1, 3] = float("nan")
    y, _ = engine(x)
    assert y[:2].isfinite().all()
    assert y[:, 0].isfinite().all()
    assert y[2:, 1].isnan().all()


def test_weights_are_streamed_once_a_step_and_only_those_that_survive():
    model, (x,) = with_example(recurrent("gru", 20, 64, "16x1", bias=False), 9, 2, given=False)
    layer = model.layer
    engine = ms.compile(model, x)
    (recurrence,) = (spec for spec in engine.manifest.layers if "gru" in spec.kernel)
    survivors = int(layer.weight_hh_l0.count_nonzero())
    assert recurrence.macs == survivors * 9 * 2
    assert sum(part.stored for part in recurrence.packing) == survivors
    assert {part.size for part in recurrence.packing} == {16}


def test_the_cell_of_an_lstm_is_kept_only_for_who_asks():
    lstm = recurrent("lstm", 3, 4)
    states = Function(lambda self, x: self.lstm(x)[1][0], lstm=lstm).eval()
    cells = Function(lambda self, x: self.lstm(x)[1][1], lstm=lstm).eval()
    for model, kept in ((states, False), (cells, True)):
        graph = from_torch(model, (torch.zeros(5, 2, 3),)).graph
        assert [node.op.cell for node in graph.nodes if isinstance(node.op, Recurrent)] == [kept]


def test_only_an_lstm_has_a_cell():
    with pytest.raises(ValueError, match="only an LSTM has a cell"):
        Recurrent("gru", "w", cell=True)


class TestTokens:
    """Linear layers over many tokens, which input products are."""

    @staticmethod
    def graph(*shape: int) -> Graph:
        weight = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
        node = Node("y", Linear("w", "b"), ("x",), (*shape, 6))
        return Graph((("x", (*shape, 5)),), (node,), ("y",), {"w": weight, "b": weight[:, 0]})

    @pytest.mark.parametrize("shape", [(8, 1), (4, 4), (2, 2, 5), (3, 37), (9, 1, 1), (2, 1, 3, 1, 2)])
    def test_many_become_planes_and_mean_the_same(self, shape):
        graph = self.graph(*shape)
        better = channels_first(graph)
        assert [type(node.op) for node in better.nodes if isinstance(node.op, Conv | Linear)] == [Conv]
        x = {"x": np.random.default_rng(1).standard_normal((*shape, 5))}
        (answer,) = better.outputs
        np.testing.assert_allclose(interpret(better, x)[answer], interpret(graph, x)["y"], rtol=1e-12)

    @pytest.mark.parametrize("shape", [(7, 1), (1, 7), (100,)])
    def test_few_and_plain_batches_stay(self, shape):
        graph = self.graph(*shape)
        assert channels_first(graph).nodes == graph.nodes

    @pytest.mark.parametrize("shape", [(2, 15), (20, 1)])
    def test_two_in_a_row_are_turned_once_before_and_once_behind(self, shape):
        model = nn.Sequential(nn.Linear(7, 20), nn.ReLU(), nn.Linear(20, 5)).eval()
        program = lower(optimize(from_torch(model, (torch.zeros(*shape, 7),)).graph), native())
        assert [step.kernel.name for step in program.steps].count("transpose") == 2


@pytest.mark.parametrize("size", [1, 4, 16])
def test_whatever_way_of_cutting_is_chosen_the_answer_is_the_same(size):
    model, example = with_example(recurrent("gru", 7, 33, "unstructured"), 4, 2, given=True)
    imported = from_torch(model, example)
    inputs = random_inputs(imported.graph)
    cases = lower_with(optimize(imported.graph), native(), 1, {}).cases
    ways = {key: [Choice(c.order, c.sizes) for c in case.candidates] for key, case in cases.items()}
    table = Table({key: next((w for w in way if max(w.sizes) == size), way[0]) for key, way in ways.items()})
    engine = ms.compile(model, example, tuning=table)
    (recurrence,) = (spec for spec in engine.manifest.layers if "gru" in spec.kernel)
    assert max(part.size for part in recurrence.packing) == size
    answers = [engine(**{i.name: inputs[i.name] for i in imported.inputs})[k] for k in range(2)]
    compare(f"blocks of {size}", imported.graph, inputs, answers, exact_answers(model, imported, inputs))


def test_every_way_of_cutting_is_a_step_of_its_own_where_it_is_timed():
    model, example = with_example(recurrent("gru", 7, 33, "unstructured"), 4, 2, given=False)
    graph = optimize(from_torch(model, example).graph)
    cases = lower_with(graph, native(), 1, {}).cases
    ways = {key: [Choice(c.order, c.sizes) for c in case.candidates] for key, case in cases.items()}
    program = lower_with(graph, native(), 1, ways).program
    steps = [step for step in program.steps if step.struct == "recurrent_args"]
    assert len(steps) > 3
    assert len(steps) in {len(way) for way in ways.values()}


LENGTHS = torch.tensor([4, 3, 2])


def packed(self, x):
    y, _ = self.gru(pack_padded_sequence(x, LENGTHS, batch_first=True))
    return pad_packed_sequence(y, batch_first=True)[0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.LSTM(7, 5, proj_size=3, batch_first=True), r"lstm in .*projections \(proj_size\).*linear layer"),
        (Function(packed, gru=nn.GRU(7, 5, batch_first=True)), r"packed sequences.*pass the padded tensor"),
    ],
)
def test_what_cannot_be_said_is_refused_with_advice(model, message):
    with pytest.raises(UnsupportedError, match=message):
        ms.compile(model.eval(), torch.zeros(3, 4, 7))


@pytest.mark.parametrize("example", [lambda x: x, lambda x: (x,), lambda x: {"input": x}])
def test_a_packed_sequence_as_an_example_is_refused_too(example):
    sequence = pack_padded_sequence(torch.zeros(3, 4, 7), LENGTHS, batch_first=True)
    with pytest.raises(UnsupportedError, match=r"'input': packed sequences.*pass the padded tensor"):
        ms.compile(nn.GRU(7, 5).eval(), example(sequence))


def test_a_model_that_was_refused_runs_as_before():
    gru = nn.GRU(7, 5, batch_first=True)
    model = Function(packed, gru=gru).eval()
    before = model(torch.ones(3, 4, 7))
    with pytest.raises(UnsupportedError):
        ms.compile(model, torch.ones(3, 4, 7))
    torch.testing.assert_close(model(torch.ones(3, 4, 7)), before)


def test_compiling_a_recurrent_layer_warns_of_nothing(recwarn):
    ms.compile(nn.GRU(7, 5).eval(), torch.zeros(3, 4, 7))
    assert not [str(w.message) for w in recwarn]


def test_weights_that_are_computed_from_the_input_are_refused():
    class Hyper(nn.Module):
        def forward(self, x, weight):
            state = torch.zeros(1, 2, 4)
            return torch.gru(x, state, [weight, weight], False, 1, 0.0, False, False, False)[0]

    with pytest.raises(UnsupportedError, match="the weight is computed from the input"):
        ms.compile(Hyper().eval(), (torch.zeros(3, 2, 4), torch.zeros(12, 4)))


def test_dropout_in_training_mode_is_refused():
    gru = recurrent("gru", 3, 4, num_layers=2)

    def trains(self, x):
        weights = [*self.gru.parameters()]
        return torch.gru(x, torch.zeros(2, 2, 4), weights, True, 2, 0.5, True, False, False)[0]

    with pytest.raises(UnsupportedError, match="dropout between layers in training mode"):
        ms.compile(Function(trains, gru=gru).eval(), torch.zeros(5, 2, 3))


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_the_bound_on_rounding_stays_finite_however_long_the_sequence(kind):
    model = getattr(nn, kind.upper())(3, 8).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(20)
    graph = from_torch(model, (torch.zeros(200, 1, 3),)).graph
    inputs = {name: np.random.default_rng(0).standard_normal(shape) for name, shape in graph.inputs}
    for bound in error_bound(graph, inputs).values():
        assert np.isfinite(bound).all()
