"""Engines with torch in them: parts are compiled, the rest runs in torch, and everything says which is which."""

from __future__ import annotations

import operator
import threading
from collections import namedtuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import monstera as ms
from monstera.measure.answers import max_error

TOLERANCE = 1e-4


class Net(nn.Module):
    """Two convolutions and a linear layer, joined by a function of one's own."""

    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 5)
        self.register_buffer("scale", torch.linspace(0.5, 2, 8)[:, None, None])
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def picture(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 3, 9, 7), generator=torch.Generator().manual_seed(1))


X = picture()


def _end(net, y):
    return net.last(y.mean((2, 3)))


def _middle(net, x):
    return _end(net, net.second(torch.cumsum(net.first(x).relu(), 1)))


def _between_branches(net, x):
    y = net.first(x).relu()
    return _end(net, net.second(y * net.scale) + torch.flip(y, [1]) + y)


def _several(net, x):
    y = net.first(x)
    values, order = y.flatten(1).sort(1)
    return {"answer": _end(net, net.second(y)), "sorted": (values[:, :3], order[:, :3]), "scale": net.scale, "n": 3}


def _whole_numbers(net, x):
    scores = _end(net, net.second(net.first(x).relu()))
    return scores * F.one_hot(scores.argmax(1), 5), scores.argmax(1) + 1


def _taken(net, x):
    y = net.first(x).relu()
    return _end(net, net.second(y.gather(1, y.mean((2, 3), keepdim=True).argsort(1).expand_as(y))))


def _complex(net, x):
    return _end(net, net.second(torch.fft.ifft2(torch.fft.fft2(net.first(x)) * 2).real.contiguous()))


def _constants(net, x):
    return F.conv2d(net.first(x).cumsum(1), net.second.weight * (net.second.weight.abs() > 0.05), groups=1)


def _in_place(net, x):
    y = net.first(x)
    y.relu_()
    z = F.elu(y)
    z.add_(y)
    y.cumsum_(1)
    return _end(net, net.second(z).relu_()), y


MODELS = {
    "in the middle": (_middle, 2, {"cumsum"}),
    "at the start": (lambda net, x: net.second(net.first(x.cumsum(2))), 1, {"cumsum"}),
    "at the end": (lambda net, x: net.second(net.first(x)).logsumexp(1), 1, {"logsumexp"}),
    "between residual branches": (_between_branches, 2, {"flip"}),
    "of several outputs": (_several, 2, {"sort"}),
    "on whole numbers": (_whole_numbers, 1, {"argmax", "one_hot"}),
    "that takes what others number": (_taken, 2, {"argsort", "gather"}),
    "on complex numbers": (_complex, 2, {"fft_fft2", "fft_ifft2", "mul", "real"}),
    "around weights that are computed ahead": (_constants, 2, {"cumsum"}),
    "in place": (_in_place, 2, {"elu", "cumsum"}),
    "on numbers that are read off": (lambda net, x: net.first(x) * x.sum().item(), 1, {"item", "mul"}),
}


def assert_agrees(answer, expected) -> None:
    """Equal structure, types and whole numbers; floats within 1e-4 of the largest."""
    if isinstance(expected, torch.Tensor):
        answer = torch.as_tensor(answer)
        assert answer.dtype == expected.dtype
        if expected.is_floating_point():
            assert max_error(answer, expected) <= TOLERANCE
        else:
            assert torch.equal(answer, expected)
    elif isinstance(expected, dict):
        assert [*answer] == [*expected]
        for key, value in expected.items():
            assert_agrees(answer[key], value)
    elif isinstance(expected, tuple | list):
        assert type(answer) is type(expected)
        for a, b in zip(answer, expected, strict=True):
            assert_agrees(a, b)
    else:
        assert answer == expected


def answer_of(model, *args, **kwargs):
    with torch.no_grad():
        return model(*[a.clone() for a in args], **kwargs)


@pytest.mark.parametrize("name", MODELS)
def test_an_operator_that_the_compiler_lacks_runs_in_torch(name):
    function, parts, operators = MODELS[name]
    model = Net(function).eval()
    engine = ms.compile(model, X, fallback="torch")
    assert isinstance(engine, ms.HybridEngine)
    assert_agrees(engine(X), answer_of(model, X))
    # What it was compiled with does not stick to it.
    other = picture(2, 3, 9, 7) * 2 - 0.3
    assert_agrees(engine(other), answer_of(model, other))
    assert len(engine.engines) == parts
    assert {call.operator for call in engine.torch_calls if call.refused} == operators


def test_without_a_fallback_the_same_network_is_refused_and_told_of_it():
    with pytest.raises(ms.UnsupportedError, match=r'(?s)fallback="torch".*cumsum in the model itself'):
        ms.compile(Net(_middle).eval(), X)


def test_where_nothing_has_to_run_in_torch_the_engine_is_a_plain_one():
    model = Net(lambda net, x: _end(net, net.second(net.first(x)))).eval()
    engine = ms.compile(model, X, fallback="torch")
    assert type(engine) is ms.Engine
    assert_agrees(engine(X), answer_of(model, X))


def test_a_hybrid_is_not_saved_and_says_all_that_stands_against_it(tmp_path):
    engine = ms.compile(Net(_several).eval(), X, fallback="torch")
    for refuse in (engine.save, engine.export_c):
        with pytest.raises(ms.UnsupportedError) as error:
            refuse(tmp_path / "net")
        lines = str(error.value).splitlines()[1:]
        assert lines == [f"  {call}" for call in engine.torch_calls]
        assert any(line.startswith("  sort in the model itself: unknown to the compiler") for line in lines)
    assert not [*tmp_path.iterdir()]


def test_the_profile_names_what_runs_in_torch_and_its_time_and_counts_surviving_weights():
    model = Net(_between_branches).eval()
    ms.prune(model, ms.Plan({"second.weight": ("4x1", 0.25)}))
    engine = ms.compile(model, X, fallback="torch")
    assert_agrees(engine(X), answer_of(model, X))
    profile = engine.profile(rounds=3)
    (flip,) = [row for row in profile.layers if row.title == "flip"]
    assert (flip.kernel, flip.ms > 0, flip.macs) == ("torch", True, 0)
    macs = {layer: sum(p.macs for p in profile.layers if p.layer == layer) for layer in ("first", "second", "last")}
    pixels = 2 * 9 * 7
    assert macs == {
        "first": model.first.weight.numel() * pixels,
        "second": int(model.second.weight.count_nonzero()) * pixels,
        "last": 2 * model.last.weight.numel(),
    }
    assert 0 < model.second.weight.count_nonzero() < model.second.weight.numel()
    assert profile.ms > 0
    assert "flip" in str(profile)
    assert engine.profile(X, rounds=1).layers


def test_what_pays_for_no_call_stays_in_torch():
    """Between two sorts there are two operators that could be compiled, but no weights."""
    model = Net(lambda net, x: net.first((x.sort(1)[0].relu() * 2).sort(1)[0])).eval()
    engine = ms.compile(model, X, fallback="torch")
    assert_agrees(engine(X), answer_of(model, X))
    assert {call.operator: call.refused for call in engine.torch_calls} == {"sort": True, "relu": False, "mul": False}
    assert len(engine.engines) == 1


def test_inputs_may_have_any_type_and_names_and_numpy_gives_numpy():
    class Chosen(Net):
        def forward(self, x, rows, *, gain):
            return _end(self, self.first(x)[rows]) * gain

    model = Chosen(None).eval()
    rows, gain = torch.tensor([1, 0, 1]), torch.tensor(2.0)
    engine = ms.compile(model, {"x": X, "rows": rows, "gain": gain}, fallback="torch")
    expected = answer_of(model, X, rows, gain=gain)
    assert_agrees(engine(X, rows=rows, gain=gain), expected)
    arrays = engine(X.numpy(), rows.numpy(), gain=gain.numpy())
    assert isinstance(arrays, np.ndarray)
    assert_agrees(arrays, expected)
    assert engine.profile(rounds=1).layers
    with pytest.raises(TypeError, match=r"missing.*'gain'; the engine takes x \[2, 3, 9, 7\], rows \[3\], gain \[\]"):
        engine(X, rows)
    with pytest.raises(TypeError, match="input 'rows' is float32; expected int64"):
        engine(X, rows.float(), gain=gain)
    with pytest.raises(ValueError, match=r"input 'x' has shape \[1, 3, 9, 7\]; the engine was compiled for"):
        engine(X[:1], rows, gain=gain)
    with pytest.raises(TypeError, match="input 'x' is a list; expected a torch tensor"):
        engine([1], rows, gain=gain)


def test_what_numpy_has_no_type_for_stays_torch_and_all_else_is_numpy():
    def mixed(net, x):
        waves = torch.fft.fft(x).conj()
        return net.second(net.first(x).cumsum(1)), x.bfloat16(), waves, waves.imag, x.sort(1)[1]

    model = Net(mixed).eval()
    answer = ms.compile(model, X, fallback="torch")(X.numpy())
    assert [type(part) for part in answer] == [np.ndarray, torch.Tensor, np.ndarray, np.ndarray, np.ndarray]
    expected = [part.resolve_conj().resolve_neg() for part in answer_of(model, X)]
    assert torch.equal(answer[1], expected[1])
    assert_agrees([answer[0], *answer[2:]], [expected[0], *expected[2:]])


def test_a_network_that_takes_nothing_gives_torch():
    class Prompt(Net):
        def forward(self):
            return self.first(X), X.sort(1)[1]

    model = Prompt(None).eval()
    engine = ms.compile(model, (), fallback="torch")
    assert type(engine) is ms.HybridEngine
    answer = engine()
    assert all(isinstance(part, torch.Tensor) for part in answer)
    assert_agrees(answer, answer_of(model))


Pair = namedtuple("Pair", "left right")


def test_the_structure_of_the_answer_is_the_models_own():
    model = Net(lambda net, x: Pair(net.first(x), [x.sort(1), None, "name"])).eval()
    answer = ms.compile(model, X, fallback="torch")(X)
    assert type(answer) is Pair
    assert answer.right[1:] == [None, "name"]
    assert_agrees(answer.right[0][0], X.sort(1)[0])


def test_a_later_change_to_the_model_changes_no_engine():
    def scaled(net, x):
        return torch.cumsum(net.first(x), 1), torch.cumsum(x, 1) * net.first.bias[:3, None, None], net.scale

    model = Net(scaled).eval()
    engine = ms.compile(model, X, fallback="torch")
    expected = answer_of(model, X)
    kept = [t.clone() for t in expected]
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.mul_(3)
    engine(X)[2].zero_()
    assert_agrees(engine(X), tuple(kept))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_layers_with_weights_that_are_not_finite_run_in_torch(value):
    model = Net(lambda net, x: net.second(net.first(x)).relu()).eval()
    with torch.no_grad():
        model.second.bias[3] = value
    engine = ms.compile(model, X, fallback="torch")
    torch.testing.assert_close(engine(X), answer_of(model, X), rtol=1e-4, atol=1e-5, equal_nan=True)
    (call,) = [call for call in engine.torch_calls if call.refused]
    assert str(call) == "conv2d in second: NaN or infinite values in second.bias"


def test_layers_in_half_precision_run_in_torch():
    model = Net(lambda net, x: net.last(net.second(net.first(x).bfloat16()).float().mean((2, 3)))).eval()
    model.second.bfloat16()
    engine = ms.compile(model, X, fallback="torch")
    assert_agrees(engine(X), answer_of(model, X))
    assert len(engine.engines) == 2
    assert "conv2d in second: its result is bfloat16" in "".join(map(str, engine.torch_calls))


def test_what_a_fallback_cannot_help_is_refused():
    net = Net(_middle)
    with pytest.raises(ValueError, match=r"in training mode: Net, first, second, last; call model.eval\(\)"):
        ms.compile(net, X, fallback="torch")
    net.eval()
    with pytest.raises(ValueError, match="unknown fallback 'numpy'; expected \"torch\""):
        ms.compile(net, X, fallback="numpy")  # pyright: ignore
    with pytest.raises(ValueError, match='fallback="torch" runs in this process, and neon cannot'):
        ms.compile(net, X, fallback="torch", target="neon")
    with pytest.raises(ms.UnsupportedError, match="writes to scale when called"):
        ms.compile(Net(lambda net, x: x * net.scale.add_(1)).eval(), picture(2, 8, 3, 3), fallback="torch")
    with pytest.raises(ValueError, match="input 'x' is a list; expected a tensor"):
        ms.compile(net, ([1],), fallback="torch")


def test_many_threads_may_call_one_hybrid():
    model = Net(_between_branches).eval()
    engine = ms.compile(model, X, fallback="torch", threads=2)
    inputs = [picture() * (i + 1) for i in range(4)]
    expected = [engine(x) for x in inputs]
    right = []

    def call(i: int) -> None:
        right.append(all(torch.equal(engine(inputs[i]), expected[i]) for _ in range(20)))

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for step in ("start", "join"):
        for thread in threads:
            operator.methodcaller(step)(thread)
    assert right == [True] * 4


def test_it_shows_itself():
    engine = ms.compile(Net(_middle).eval(), X, fallback="torch")
    assert repr(engine) == "HybridEngine(x [2, 3, 9, 7]; 2 part(s) compiled, in torch: cumsum)"
