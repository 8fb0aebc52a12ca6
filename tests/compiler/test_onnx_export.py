"""A sparse torch model leaves through torch's own exporters and comes back as the same network, holes included."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument
from torch import nn

import monstera as ms
from compiler.agreement import compare
from compiler.graphs import random_model
from compiler.onnx_made import Arrays, answers
from monstera.compiler.frontends import Imported, from_onnx, from_torch
from monstera.compiler.frontends.imported import value_indices
from monstera.compiler.ir import Conv, Graph, error_bound, interpret
from monstera.zoo import network, randomize_

exporters = pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])


def exported(model: nn.Module, x: torch.Tensor, path: Path, dynamo: bool) -> Path:
    """The model as an ONNX file."""
    with warnings.catch_warnings():
        # The exporters warn of their own future.
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(path), dynamo=dynamo, opset_version=18, verbose=False)
    return path


def holes(graph: Graph) -> list[np.ndarray]:
    """Where the weights of every convolution are zero, in order."""
    return [graph.params[n.op.weight] == 0 for n in graph.nodes if isinstance(n.op, Conv)]


@exporters
@pytest.mark.parametrize("name", ["resnet20", pytest.param("mobilenet_v2", marks=pytest.mark.full)])
def test_a_sparse_network_comes_back_equal(name: str, dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = network(name)
    randomize_(model, torch.randn(4, 3, 32, 32))
    model.eval()
    ms.prune(model, ms.Plan.uniform(model, ms.Block(4, 1, 1), 0.25))
    x = torch.randn(1, 3, 32, 32)
    path = exported(model, x, tmp_path / "net.onnx", dynamo)

    there, back = from_torch(model, (x,)), from_onnx(path)
    for ours, theirs in zip(holes(back.graph), holes(there.graph), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with torch.no_grad():
        wanted = model.double()(x.double()).float()
    model.float()
    inputs = {back.inputs[0].name: x.numpy()}
    engines = ms.compile(path), ms.compile(model, x)
    compare(name, back.graph, inputs, [engines[0](x).numpy()], [wanted])
    torch.testing.assert_close(engines[0](x), engines[1](x), rtol=0, atol=1e-4 * float(wanted.abs().max()))
    assert _macs(engines[0]) == _macs(engines[1])


def _macs(engine: ms.Engine) -> int:
    return sum(layer.macs for layer in engine.manifest.layers)


# What the IR cannot say of what the exporter writes: chunks may be a sequence, and some places of resized pixels depend
# on how ONNX Runtime rounds.
REFUSED = {"SplitToSequence", "SequenceAt", "Resize"}
POOLS = pytest.mark.parametrize("spatial", [None, 1, 2, 3])


@POOLS
def test_random_networks_mean_what_onnx_runtime_computes(spatial: int | None) -> None:
    assert _agreeing(range(16), spatial) >= 6


@pytest.mark.full
@POOLS
def test_many_random_networks_mean_what_onnx_runtime_computes(spatial: int | None) -> None:
    assert _agreeing(range(16, 200), spatial) >= 80


def _agreeing(seeds: Iterable[int], spatial: int | None) -> int:
    """How many random models go through torch's exporter and are computed; those must agree."""
    agreeing = 0
    for seed in seeds:
        found = _from_torch(seed, spatial)
        if found is None:
            continue
        proto, inputs, wanted = found
        imported, refused = _read(proto)
        assert refused <= REFUSED, f"seed {seed}, spatial {spatial}"
        if imported is None:
            continue
        values, bounds = interpret(imported.graph, inputs), error_bound(imported.graph, inputs)
        for index, theirs in zip(value_indices(imported.output), wanted.values(), strict=True):
            name = imported.graph.outputs[index]
            assert values[name].shape == theirs.shape, f"seed {seed}, spatial {spatial}"
            near = np.abs(values[name] - theirs) <= bounds[name] + 1e-5 * (1 + np.abs(theirs).max())
            assert near.all(), f"seed {seed}, spatial {spatial}"
        agreeing += 1
    return agreeing


def _from_torch(seed: int, spatial: int | None) -> tuple[onnx.ModelProto, Arrays, Arrays] | None:
    """A random model from torch's exporter, inputs and what ONNX Runtime gives; None if either of the two fails."""
    model = random_model(np.random.default_rng(seed), spatial)
    example, file = model.example(seed), io.BytesIO()
    names = [f"in{i}" for i in range(len(example))]
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(model, example, file, dynamo=False, opset_version=13 + seed % 6, input_names=names)
        proto = onnx.load_from_string(file.getvalue())
        inputs = {i.name: example[names.index(i.name)].numpy() for i in proto.graph.input}
        return proto, inputs, answers(proto, inputs)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, Fail, InvalidArgument):
        return None


def _read(proto: onnx.ModelProto) -> tuple[Imported | None, set[str]]:
    """The model as imported, or the operators that are in the way."""
    try:
        return from_onnx(proto), set()
    except ms.UnsupportedError as error:
        return None, {line.split()[0] for line in str(error).splitlines()[1:]}


class AnySize(nn.Module):
    """A network whose sizes follow from those of its input in every way that exporters write down."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = F.hardswish(self.stem(x))
        n, c, h, w = y.shape
        rows = y.reshape(n, c, h * w).transpose(1, 2).softmax(-1)
        larger = F.interpolate(y, size=(2 * h, 2 * w), mode="bilinear", align_corners=False)
        return rows, self.head(larger[:, :, h // 2 :, :w].mean((2, 3)).reshape(n, -1))


@pytest.mark.parametrize("dynamo", [pytest.param(True, marks=pytest.mark.full), False])
def test_sizes_that_the_exporter_left_open_are_fixed_by_the_example(dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, path = AnySize().eval(), tmp_path / "net.onnx"
    free = (
        {"dynamic_shapes": ({0: "n", 2: "h", 3: "w"},)} if dynamo else {"dynamic_axes": {"x": {0: "n", 2: "h", 3: "w"}}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.randn(2, 3, 24, 16),), str(path), input_names=["x"], dynamo=dynamo, verbose=False, **free
        )
    with pytest.raises(ValueError, match=r"no size: x \[\w+, 3, \w+, \w+\]"):
        ms.compile(path)
    x = torch.randn(3, 3, 13, 18)
    with torch.no_grad():
        wanted = model(x)
    for ours, theirs in zip(ms.compile(path, x)(x).values(), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_names_of_weights_survive_the_exporter(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    path = exported(model, torch.zeros(1, 3, 8, 8), tmp_path / "net.onnx", dynamo=True)
    params = from_onnx(path).graph.params
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(params[name], value.numpy())
