"""`torch.compile(model, backend="monstera")`: the answers are torch's, whatever dynamo makes of the model."""

from __future__ import annotations

import gc
import importlib
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tomllib
import torch
from torch import nn

import monstera as ms
from monstera.compiler.hybrid import HybridEngine
from monstera.integrations import torch_compile
from monstera.integrations.torch_compile import FallbackWarning, backend
from monstera.measure.answers import max_error
from monstera.zoo import calibrate_, network, randomize_

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4


class Net(nn.Module):
    """A convolution with a norm, one without, and a function of one's own between them."""

    def __init__(self, between=lambda y: y) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.second = nn.Conv2d(8, 4, 1)
        self.drop = nn.Dropout(0.5)
        self.first[1].running_mean.uniform_(-1, 1)
        self.between = between

    def forward(self, x):
        return self.drop(self.second(self.between(self.first(x))))


def picture(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (1, 3, 9, 7), generator=torch.Generator().manual_seed(1))


X = picture()


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    torch_compile._warn.cache_clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def made(monkeypatch) -> list[HybridEngine]:
    """The engines that the backend makes, in order."""
    engines = []

    def note(*args, **kwargs):
        engines.append(HybridEngine(*args, **kwargs))
        return engines[-1]

    monkeypatch.setattr(torch_compile, "HybridEngine", note)
    return engines


def assert_agrees(model, *args, compiled=None) -> None:
    compiled = torch.compile(model, backend=backend) if compiled is None else compiled
    with torch.no_grad():
        expected = model(*args)
        answer = compiled(*args)
    assert type(answer) is type(expected)
    assert max_error(answer, expected) <= TOLERANCE


def test_the_entry_point_in_pyproject_is_the_backend():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["torch_dynamo_backends"]["monstera"].partition(":")
    assert getattr(importlib.import_module(module), name) is backend


def test_it_is_called_by_its_name(made):
    # An installation that knows the entry point has registered it.
    if "monstera" not in torch._dynamo.list_backends():
        torch._dynamo.register_backend(backend, name="monstera")
    model = Net().eval()
    assert_agrees(model, X, compiled=torch.compile(model, backend="monstera", options={"threads": 2, "tune": "none"}))
    (engine,) = made[0].engines
    assert engine.manifest.threads == 2


def test_all_of_a_supported_model_is_one_program_that_keeps_holes_and_names(made):
    model = Net().eval()
    ms.prune(model, ms.Plan({"first.0.weight": ("4x1", 0.25)}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        assert_agrees(model, X)
    (engine,) = made
    assert engine.torch_calls == ()
    macs = {row.layer: row.macs for row in engine.profile(rounds=1).layers if row.macs}
    alive = {name: int(model.get_submodule(name).weight.count_nonzero()) for name in ("first.0", "second")}
    assert macs == {name: count * 63 for name, count in alive.items()}
    assert 0 < alive["first.0"] < model.first[0].weight.numel() / 2


def test_an_unknown_operator_runs_in_torch_and_is_named_once(made):
    model = Net(lambda y: y.cumsum(1)).eval()
    with pytest.warns(FallbackWarning, match="cumsum: a cumulative sum along another dimension than the last"):
        assert_agrees(model, X)
    assert len(made[0].engines) == 2
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        assert_agrees(model, X)


def test_a_graph_breaks_where_python_looks_at_values(made, capsys):
    def look(y):
        print("seen")
        return y + 1 if y.sum() > 0 else y - 1

    model = Net(look).eval()
    compiled = torch.compile(model, backend=backend)
    assert_agrees(model, X, compiled=compiled)
    with torch.no_grad():
        model.first[1].bias.sub_(100)
        model.first[1].bias[0] = 1e-3
    assert_agrees(model, X, compiled=compiled)
    assert capsys.readouterr().out == "seen\n" * 4
    assert all(len(engine.engines) == 1 for engine in made)


def test_other_shapes_are_compiled_anew_and_known_ones_are_not(made):
    model = Net(lambda y: y.flatten(2).unflatten(2, y.shape[2:])).eval()
    compiled = torch.compile(model, backend=backend)
    # After two heights dynamo would take the third for any.
    shapes = [(1, 3, 9, 7), (1, 3, 8, 7), (1, 3, 6, 7)]
    for shape in (*shapes, shapes[0]):
        assert_agrees(model, picture(*shape), compiled=compiled)
    assert [e.engines[0].manifest.inputs[0].shape for e in made] == shapes


def test_a_number_that_changes_is_compiled_anew():
    class Scaled(Net):
        def forward(self, x, n):
            return self.second(self.first(x)) * n

    model = Scaled().eval()
    compiled = torch.compile(model, backend=backend)
    for n in (2, 3, 4):
        assert_agrees(model, X, n, compiled=compiled)


def test_weights_that_change_are_read_again(made):
    """Dynamo looks at shapes of parameters, not at their values."""
    model = Net().eval()
    compiled = torch.compile(model, backend=backend)
    assert_agrees(model, X, compiled=compiled)
    ms.prune(model, ms.Plan({"first.0.weight": ("4x1", 0.25)}))
    assert_agrees(model, X, compiled=compiled)
    model.load_state_dict({name: tensor * 2 for name, tensor in model.state_dict().items()})
    assert_agrees(model, X, compiled=compiled)
    assert_agrees(model, X, compiled=compiled)
    assert len(made) == 3


def test_modules_that_share_a_graph_keep_their_own_weights(made, monkeypatch):
    graphs, make = [], torch_compile._CompiledGraph

    def note(*args):
        graphs.append(make(*args))
        return graphs[-1]

    monkeypatch.setattr(torch_compile, "_CompiledGraph", note)
    first, second = (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval() for _ in range(2))
    compiled = torch.compile(lambda model, x: model(x), backend=backend)
    for model in (first, second, first, second):
        with torch.no_grad():
            assert max_error(compiled(model, X), model(X)) <= TOLERANCE
    # Dynamo compiles for the one module, and uses that for the other.
    assert (len(graphs), len(made)) == (1, 2)


def test_a_program_does_not_keep_the_model_alive(made):
    model = Net(lambda y: y.cumsum(1) * 2).eval()
    assert_agrees(model, X)
    weight = weakref.ref(model.second.weight)
    del model
    gc.collect()
    assert weight() is None
    assert made


def test_programs_of_dead_models_are_dropped():
    compiled = torch_compile._CompiledGraph(None, [True], torch_compile.settings_of())  # pyright: ignore
    compiled._compile = lambda _, weights, versions: torch_compile._Compiled(
        lambda *_: None, tuple(map(torch_compile.TensorWeakRef, weights)), versions
    )
    for _ in range(3):
        compiled(torch.zeros(1))
    assert len(compiled._compiled) == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_runs_under_no_grad_and_under_inference_mode(mode):
    model = Net(lambda y: y.cumsum(1)).eval()
    compiled = torch.compile(model, backend=backend)
    with mode():
        x = picture() * 1
        assert max_error(compiled(x), model(x)) <= TOLERANCE


def test_autograd_is_refused_and_told_what_to_do(made):
    model = Net().eval()
    compiled = torch.compile(model, backend=backend)
    refusal = r'"monstera" computes no gradients.*torch.no_grad\(\).*model.eval\(\)'
    with pytest.raises(RuntimeError, match=refusal):
        compiled(X)
    model.requires_grad_(False)
    with pytest.raises(RuntimeError, match=refusal):
        compiled(X.clone().requires_grad_())
    assert max_error(compiled(X), model(X)) <= TOLERANCE
    assert len(made) == 1


def test_a_model_that_switches_gradients_off_itself_needs_no_other_no_grad():
    model = Net().eval()
    plain = model.forward
    model.forward = torch.no_grad()(plain)
    assert max_error(torch.compile(model, backend=backend)(X), model(X)) <= TOLERANCE


@pytest.mark.parametrize(("part", "named"), [("first", "first.1"), ("drop", "drop")])
def test_layers_in_training_mode_are_refused_by_name(part, named):
    model = Net().eval()
    model.get_submodule(part).train()
    with torch.no_grad(), pytest.raises(RuntimeError, match=rf"in training mode: {named}; call model.eval\(\) first"):
        torch.compile(model, backend=backend)(X)


def test_a_norm_that_has_no_statistics_is_no_training(made):
    model = Net(nn.BatchNorm2d(8, track_running_stats=False)).eval()
    with pytest.warns(FallbackWarning, match="batch_norm: batch norm without running statistics"):
        assert_agrees(model, X)
    assert len(made[0].engines) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_run_in_torch_with_a_warning(made, dtype):
    model = Net().eval().to(dtype)
    x = X.to(dtype)
    compiled = torch.compile(model, backend=backend)
    with pytest.warns(FallbackWarning, match=rf"conv2d: its result is {str(dtype)[6:]}"), torch.no_grad():
        assert torch.equal(compiled(x), model(x))
    assert made == []


def test_autocast_inside_a_model_runs_in_torch():
    class Mixed(Net):
        def forward(self, x):
            y = self.first(x)
            with torch.autocast("cpu", torch.bfloat16):
                return self.second(y)

    model = Mixed().eval()
    with torch.no_grad(), pytest.warns(FallbackWarning):
        answer = torch.compile(model, backend=backend)(X)
    with torch.no_grad():
        expected = model(X)
    assert answer.dtype == expected.dtype
    assert max_error(answer.float(), expected.float()) <= 2e-2


def test_a_graph_that_writes_to_what_it_is_given_runs_in_torch(made):
    class Counting(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            return super().forward(x) * self.calls

    model, reference = Counting().eval(), Counting().eval()
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad(), pytest.warns(FallbackWarning, match="writes to .* when called"):
        answers = compiled(X), compiled(X)
    with torch.no_grad():
        assert max_error(answers, (reference(X), reference(X))) <= TOLERANCE
    assert model.calls == 2
    assert made == []


def test_what_has_no_weights_stays_in_torch_without_a_word(made):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        assert_agrees(lambda x: (x * 2).relu(), X)
    assert len(made) == 0


def test_answers_keep_their_structure_and_whole_numbers():
    class Several(Net):
        def forward(self, x):
            y = super().forward(x)
            return {"logits": y, "best": y.argmax(1), "x": x, "nothing": None, "list": [y.relu(), 3]}

    model = Several().eval()
    with torch.no_grad():
        answer, expected = torch.compile(model, backend=backend)(X), model(X)
    assert [*answer] == [*expected]
    assert torch.equal(answer["best"], expected["best"])
    assert answer["x"] is X
    assert (answer["nothing"], answer["list"][1]) == (None, 3)
    assert max_error([answer["logits"], answer["list"][0]], [expected["logits"], expected["list"][0]]) <= TOLERANCE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"thread": 2}}, "no option 'thread'; it has threads, target, tune, tuning"),
        ({"options": {"threads": 0}}, "threads must be a whole number from 1 to 64, got 0"),
        ({"mode": "max-autotune"}, "has no modes, got mode='max-autotune'"),
    ],
)
def test_options_that_it_has_not_are_refused(arguments, message):
    with torch.no_grad(), pytest.raises(RuntimeError, match=message):
        torch.compile(Net().eval(), backend=backend, **arguments)(X)


def _agree_in_threads(compiled, model, inputs) -> None:
    """Call with each input from a thread of its own, all at once and several times; an error of a thread is raised."""
    start = threading.Barrier(len(inputs))
    with torch.no_grad():
        expected = [model(x) for x in inputs]

    def call(x) -> list[torch.Tensor]:
        start.wait()
        with torch.no_grad():
            return [compiled(x) for _ in range(20)]

    with ThreadPoolExecutor(len(inputs)) as threads:
        for answers, exact in zip(threads.map(call, inputs), expected, strict=True):
            assert max(max_error(answer, exact) for answer in answers) <= TOLERANCE


def test_many_threads_may_call_a_model_that_was_called_once(made):
    model = Net(lambda y: y.cumsum(1)).eval()
    compiled = torch.compile(model, backend=backend)
    assert_agrees(model, X, compiled=compiled)
    _agree_in_threads(compiled, model, [picture() * (i + 1) for i in range(4)])
    assert len(made) == 1


def test_a_graph_whose_first_call_comes_from_many_threads_at_once_is_compiled_once(made):
    """Called as dynamo does, but not through it: torch itself does not trace in one thread while another runs."""
    model, found = Net(lambda y: y.cumsum(1)).eval(), []

    def note(graph_module, example_inputs):
        found.append((backend(graph_module, example_inputs), example_inputs))
        return graph_module.forward

    with torch.no_grad():
        torch.compile(model, backend=note)(X)
    ((graph, example),) = found
    place = next(i for i, x in enumerate(example) if x.shape == X.shape)
    _agree_in_threads(
        lambda x: graph(*example[:place], x, *example[place + 1 :])[0], model, [picture() * (i + 1) for i in range(4)]
    )
    assert len(made) == 1


def _zoo_network_agrees(name: str, pattern: str | None, shape: tuple[int, ...], made: list[HybridEngine]) -> None:
    example = picture(*shape)
    model = randomize_(network(name).eval(), example)
    if pattern:
        ms.prune(model, ms.Plan.uniform(model, pattern, 0.25))
        calibrate_(model, example)
    assert_agrees(model, example)
    (engine,) = made
    assert engine.torch_calls == ()


@pytest.mark.parametrize(
    ("name", "pattern", "shape"), [("resnet20", "4x1", (2, 3, 32, 32)), ("digits_cnn", None, (1, 1, 28, 28))]
)
def test_a_network_of_the_zoo_answers_as_in_eager_mode(name, pattern, shape, made):
    _zoo_network_agrees(name, pattern, shape, made)


@pytest.mark.full
@pytest.mark.parametrize("pattern", [None, "4x1"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (1, 3, 96, 80)),
        # Smaller pictures leave norms a few pixels, and torch itself strays from float64 by more than the tolerance.
        ("resnet50", (2, 3, 96, 96)),
        ("mobilenet_v2", (2, 3, 64, 96)),
        ("vgg16", (1, 3, 64, 64)),
        ("c3d", (1, 3, 16, 112, 112)),
        ("r2plus1d_18", (2, 3, 8, 64, 64)),
    ],
)
def test_every_network_of_the_zoo_answers_as_in_eager_mode(name, pattern, shape, made):
    _zoo_network_agrees(name, pattern, shape, made)
