"""`compile` and `preview` from the outside: examples of any form, bad input refused, nothing left behind."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import replace

import pytest
import torch
from torch import nn

import monstera as ms
from monstera.compiler import BuildError, LayerPreview, Preview, UnsupportedError
from monstera.compiler import build as build_room
from monstera.compiler.build import build
from monstera.compiler.targets import TARGETS, native
from monstera.runtime import machine


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x, y=None):
        x = self.second(self.first(x).relu())
        return x if y is None else x + y


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("example", "call"), [(X, {"x": X}), ((X, X[:, :1]), {"x": X, "y": X[:, :1]}), ({"x": X}, {"x": X})]
)
def test_an_example_is_a_tensor_a_tuple_or_a_dict(net, example, call):
    torch.testing.assert_close(ms.compile(net, example)(**call), net(**call), rtol=1e-5, atol=1e-6)


def test_the_model_is_left_as_it_was(net):
    before = copy.deepcopy(net.state_dict())
    ms.compile(net, X)
    ms.preview(net, X, ms.Plan.uniform(net, "4x1", 0.25), rounds=1, quiet=True)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_a_dead_filter_still_emits_its_bias_into_a_padded_consumer(net):
    with torch.no_grad():
        net.first.weight[2:6] = 0
        net.first.bias[:] = torch.linspace(0.5, 1.5, 8)
    torch.testing.assert_close(ms.compile(net, X)(X), net(X), rtol=1e-5, atol=1e-6)


def test_holes_are_read_before_batch_norm_is_folded():
    """A batch norm with scale zero makes folded weights zero; the engine must still know the model's own holes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).eval()
    ms.prune(model, ms.Plan({"0.weight": ("4x1", 0.25)}))
    with torch.no_grad():
        model[1].weight[1] = 0.0
        model[1].weight[2] = 1e-30
        model[1].bias[:] = 0.3
    x = torch.randn(1, 8, 8, 8)
    engine = ms.compile(model, x)
    torch.testing.assert_close(engine(x), model(x), rtol=1e-5, atol=1e-6)
    assert sum(p.macs for p in engine.profile(rounds=1).layers) == int(model[0].weight.count_nonzero()) * 64


def test_training_mode_is_refused_with_the_modules(net):
    net.second.train()
    with pytest.raises(ValueError, match="training mode: second"):
        ms.compile(net, X)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(net, value):
    with torch.no_grad():
        net.second.weight[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"second\.weight"):
        ms.compile(net, X)


def test_unsupported_operators_are_all_listed_with_their_layer():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x).real + torch.cumsum(x, 1)

    with pytest.raises(UnsupportedError, match=r"(?s)fft.*cumsum"):
        ms.compile(Odd().eval(), X)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 2, 3, padding=1), (1, 4, 9)),
        (nn.Conv3d(4, 8, 3, stride=(2, 1, 2), padding=1), (2, 4, 5, 6, 7)),
        (nn.MaxPool3d(2), (1, 4, 8, 9, 9)),
        (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), (1, 4, 9, 5)),
        (nn.ConvTranspose3d(4, 2, 2, 2), (1, 4, 3, 4, 5)),
        (nn.PixelShuffle(2), (1, 4, 9, 9)),
    ],
)
def test_layers_of_one_to_three_dimensions_and_transposed_ones_answer_as_in_torch(layer, shape):
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(ms.compile(layer.eval(), x)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sse2", "", None, "NEON"])
def test_an_unknown_target_is_refused_with_the_known(net, name):
    with pytest.raises(ValueError, match=f"unknown target {name!r}; expected one of native, avx512, avx2, neon"):
        ms.compile(net, X, target=name)


@pytest.mark.skipif(
    native().architecture != "x86_64", reason="builds for an x86-64 processor by this machine's compiler"
)
class TestATargetThatThisProcessorLacks:
    @pytest.fixture
    def engine(self, net, monkeypatch) -> ms.Engine:
        monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(TARGETS["avx2"].features))
        return ms.compile(net, X, target="avx512")

    def test_it_is_compiled_all_the_same_and_says_what_it_needs_when_called(self, engine):
        assert not engine.runs_here
        assert (engine.manifest.target, engine.manifest.layers != ()) == ("avx512", True)
        for call in (lambda: engine(X), engine.profile):
            with pytest.raises(ms.ArtifactError, match=r'avx512: this processor lacks .*avx512f.*save it.*"native"'):
                call()

    def test_what_it_saves_is_refused_here_and_runs_where_the_processor_has_it(
        self, engine, net, tmp_path, monkeypatch
    ):
        engine.save(tmp_path / "net.monstera")
        with pytest.raises(ms.ArtifactError, match=r"net\.monstera: made for avx512: this processor lacks .*avx512f"):
            ms.load(tmp_path / "net.monstera")
        monkeypatch.undo()
        if native().name == "avx512":
            torch.testing.assert_close(ms.load(tmp_path / "net.monstera")(X), net(X), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(native().name != "avx512", reason="needs a processor that runs both")
def test_a_narrower_target_runs_here_too_and_says_so(net):
    engine = ms.compile(net, X, target="avx2")
    assert (engine.runs_here, engine.manifest.target) == (True, "avx2")
    assert "avx512f" not in engine.manifest.features
    torch.testing.assert_close(engine(X), net(X), rtol=1e-5, atol=1e-6)


def test_another_architecture_needs_the_ziglang_wheel_and_says_so(net, monkeypatch):
    monkeypatch.setattr(build_room.importlib.util, "find_spec", lambda _: None)
    other = "neon" if native().architecture == "x86_64" else "avx2"
    with pytest.raises(BuildError, match=rf"building for {other} \(linux-.*pip install 'monstera\[zig\]'"):
        ms.compile(net, X, target=other)


@pytest.mark.parametrize("threads", [0, -1, 65, 1.5, "2"])
def test_an_impossible_number_of_threads_is_refused(net, threads):
    with pytest.raises(ValueError, match="threads"):
        ms.compile(net, X, threads=threads)


def test_without_a_compiler_the_error_says_how_to_get_one(net, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(build_room.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("MONSTERA_CACHE", str(tmp_path))
    with pytest.raises(BuildError, match=r"no C compiler found.*monstera\[zig\]"):
        ms.compile(net, X)
    assert not list(tmp_path.iterdir())


def test_a_wrong_cc_is_named(net, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(BuildError, match="no-such-compiler"):
        ms.compile(net, X)


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(net, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MONSTERA_CACHE", str(tmp_path / "file"))
    with pytest.raises(BuildError, match=r"cannot write to the cache .*MONSTERA_CACHE"):
        ms.compile(net, X)


def test_a_compiler_that_fails_shows_its_first_error_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("MONSTERA_CACHE", str(tmp_path))
    with pytest.raises(BuildError, match="error"):
        build("this is not C;", native())
    assert not list(tmp_path.iterdir())


def test_the_same_source_is_built_once(monkeypatch, tmp_path):
    monkeypatch.setenv("MONSTERA_CACHE", str(tmp_path))
    source = "int answer(void) { return 42; }"
    first = build(source, native())
    monkeypatch.setattr(build_room, "_compile", None)
    assert build(source, native()) == first
    assert [p.name for p in tmp_path.iterdir()] == [first.name]


def test_a_preview_measures_every_layer_with_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)).eval()
    plan = ms.Plan({"2.weight": ("4x1", 0.05)})
    preview = ms.preview(model, torch.randn(1, 3, 40, 40), plan, quiet=True)
    first, second = preview.layers
    assert (first.layer, first.planned) == ("0", "")
    assert second.planned.startswith("4x1")
    assert second.speedup > 3  # of 20 that the holes promise: leaves room for a busy machine
    assert preview.speedup > 1.5


def test_a_preview_names_the_layers_that_will_not_gain():
    rows = (
        LayerPreview("conv", "", 1.0, 1.0),
        LayerPreview("slow", "2:4 at density 0.5", 1.0, 0.98),
        LayerPreview("fast", "4x1 at density 0.1", 1.0, 0.1),
    )
    preview = Preview(rows, 3.0, 2.1)
    assert preview.without_gain == ("slow",)
    assert str(preview).count("will not gain") == 1


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="the ziglang wheel is not installed")
def test_the_compiler_from_the_ziglang_wheel_builds_the_same_network(net, monkeypatch, tmp_path):
    monkeypatch.setenv("MONSTERA_CACHE", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(build_room.shutil, "which", lambda _: None)
    engine = ms.compile(net, X)
    assert "clang" in engine.manifest.compiler
    torch.testing.assert_close(engine(X), net(X), rtol=1e-5, atol=1e-6)


def test_a_library_is_kept_for_its_platform_and_target(monkeypatch, tmp_path):
    """Machines of several kinds may share the cache; a source without a word of the target must not meet another's."""
    monkeypatch.setenv("MONSTERA_CACHE", str(tmp_path))
    source = "int answer(void) { return 42; }"
    kept = {build(source, native()), build(source, replace(native(), flags=("-O2",)))}
    monkeypatch.setattr(build_room, "platform_of", lambda _: "linux-other")
    kept.add(build(source, native()))
    assert len(kept) == 3


def test_one_tensor_as_the_example_of_two_inputs_does_not_make_them_one():
    class Difference(nn.Module):
        def forward(self, x, y):
            return x - y

    engine = ms.compile(Difference().eval(), (X, X))
    torch.testing.assert_close(engine(X, 2 * X), -X)
