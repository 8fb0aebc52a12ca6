"""Engines are called like the model, from many threads, and refuse what does not fit."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch

import monstera as ms


def _close(ours, theirs):
    torch.testing.assert_close(torch.as_tensor(ours), theirs, rtol=1e-5, atol=1e-6)


def test_torch_in_gives_torch_out_in_the_models_own_structure(engine, model, example):
    ours, theirs = engine(**example), model(**example)
    assert ours.keys() == theirs.keys()
    assert isinstance(ours["maps"], tuple)
    assert ours["none"] is None
    assert all(isinstance(t, torch.Tensor) for t in (*ours["maps"], ours["scale"]))
    _close(ours["maps"][1], theirs["maps"][1])
    _close(ours["scale"], theirs["scale"])


def test_numpy_in_gives_numpy_out(engine, model, example):
    ours = engine(example["image"].numpy(), features=example["features"].numpy())
    assert isinstance(ours["scale"], np.ndarray)
    _close(ours["maps"][0], model(**example)["maps"][0])


def test_an_input_that_is_not_contiguous_is_read_right(engine, model, example):
    turned = example["image"].permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert not turned.is_contiguous()
    _close(engine(turned, features=example["features"])["maps"][0], model(**example)["maps"][0])


def test_tensors_that_require_grad_are_accepted(engine, model, example):
    image = example["image"].clone().requires_grad_()
    _close(engine(image, features=example["features"])["scale"], model(**example)["scale"])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"image": torch.zeros(2, 3, 9, 8)}, ValueError, r"'image' has shape \[2, 3, 9, 8\].*\[2, 3, 9, 7\]"),
        ({"image": torch.zeros(3, 9, 7)}, ValueError, r"'image' has shape \[3, 9, 7\]"),
        ({"image": torch.zeros(2, 3, 9, 7, dtype=torch.float64)}, TypeError, "float64.*float32"),
        ({"image": np.zeros((2, 3, 9, 7))}, TypeError, "float64.*float32"),
        ({"image": [1.0]}, TypeError, "list.*torch tensor or a numpy array"),
        ({"imag": torch.zeros(1)}, TypeError, "unknown input 'imag'.*image.*features"),
    ],
)
def test_a_wrong_input_is_named_with_what_was_expected(engine, example, change, error, words):
    with pytest.raises(error, match=words):
        engine(**{**example, **change})


def test_missing_superfluous_and_doubled_inputs_are_named(engine, example):
    with pytest.raises(TypeError, match="missing input 'features'"):
        engine(example["image"])
    with pytest.raises(TypeError, match="at most 1 positional"):
        engine(example["image"], example["features"])
    with pytest.raises(TypeError, match="'image' was given twice"):
        engine(example["image"], **example)


def test_many_threads_calling_one_engine_get_the_single_thread_answer(engine, example):
    expected = engine(**example)["maps"][1]
    wrong = []

    def call():
        wrong.extend(i for i in range(50) if not torch.equal(engine(**example)["maps"][1], expected))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_two_threads_give_the_answer_of_one(model, example, engine):
    double = ms.compile(model, example, threads=2)
    assert double.manifest.threads == 2
    for _ in range(20):
        _close(double(**example)["maps"][1], engine(**example)["maps"][1])


def test_a_forked_process_gets_the_answer_too(model, example):
    double = ms.compile(model, example, threads=2)
    expected = double(**example)["scale"]
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(double(**example)["scale"], expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_engine_with_more_threads_than_cores_still_answers(model, example, engine):
    crowd = ms.compile(model, example, threads=5)
    _close(crowd(**example)["scale"], engine(**example)["scale"])


def test_nan_and_infinity_pass_through_like_in_torch(engine, model, example):
    image = example["image"].clone()
    image[0, 1, 4, 3] = float("nan")
    image[1, 0, 2, 2] = float("inf")
    ours, theirs = engine(image, features=example["features"]), model(image, features=example["features"])
    torch.testing.assert_close(ours["maps"][0], theirs["maps"][0], equal_nan=True, rtol=1e-5, atol=1e-6)


def test_the_profile_names_every_layer_with_its_work_and_kernel(engine, example):
    profile = engine.profile(**example, rounds=3)
    conv = next(p for p in profile.layers if p.layer == "conv")
    assert conv.dense_macs <= 8 * 3 * 9 * 2 * 9 * 7
    assert sum(p.dense_macs for p in profile.layers if p.layer == "conv") == 8 * 3 * 9 * 2 * 9 * 7
    assert conv.kernel.startswith("f32_spmm_planes_")
    assert conv.ms > 0
    assert conv.gflops > 0
    assert profile.ms > 0
    assert {"conv", "linear"} <= {p.layer for p in profile.layers}
    assert "conv" in str(profile)
    assert "GFLOP/s" in str(profile)


def test_surviving_work_follows_the_holes():
    layer = torch.nn.Conv2d(8, 16, 3).eval()
    ms.prune(layer, ms.Plan({"weight": ("4x1", 0.25)}))
    profile = ms.compile(layer, torch.zeros(1, 8, 10, 10)).profile(rounds=2)
    assert sum(p.macs for p in profile.layers) == int(layer.weight.count_nonzero()) * 64
    assert sum(p.dense_macs for p in profile.layers) == layer.weight.numel() * 64


def test_the_generated_c_says_what_each_step_is(engine):
    assert "/* conv: conv 3x3 3 to 8 of 8" in engine.c_source
