"""A sparse torch model leaves through torch's own exporters and comes back as the same network, holes included."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import monstera as ms
from compiler.agreement import compare
from monstera.compiler.frontends import from_onnx, from_torch
from monstera.compiler.ir import Conv, Graph
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


def test_the_names_of_weights_survive_the_exporter(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    path = exported(model, torch.zeros(1, 3, 8, 8), tmp_path / "net.onnx", dynamo=True)
    params = from_onnx(path).graph.params
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(params[name], value.numpy())
