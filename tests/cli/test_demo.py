"""The demo with a network small enough for a test; `make demo` runs it at full size."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import monstera as ms
from monstera import demo
from monstera.cli import app
from monstera.measure import INDUCTOR, count_macs
from monstera.sparsity import Block
from monstera.zoo import digits_cnn
from monstera.zoo.data import digits

SMALL = demo.Settings(side=8, width=16, dense_epochs=3, admm_epochs=3, rounds=3)


@pytest.fixture(scope="module")
def samples() -> tuple[demo.Samples, demo.Samples]:
    data = digits()
    return demo.enlarged(data.train, SMALL.side), demo.enlarged(data.test, SMALL.side)


def test_the_whole_way_ends_in_two_programs_that_read_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    stages: dict[str, float] = {}
    outcome = demo.run(SMALL, tmp_path / "new", stages.__setitem__)
    assert stages == dict.fromkeys(demo.STAGES, 1.0)
    assert min(outcome.accuracy.values()) > 0.8
    assert outcome.program_bytes == {
        weights: (tmp_path / "new" / f"digits-{weights}.monstera").stat().st_size for weights in ("dense", "sparse")
    }
    assert outcome.comparison.row(INDUCTOR.name).note == "needs a C++ compiler"
    assert outcome.comparison.row("monstera", "sparse").timing is not None


def test_the_sparse_network_obeys_the_plan_and_the_dense_one_has_no_holes(samples: tuple[demo.Samples, demo.Samples]):
    networks = demo.trained(SMALL, samples[0], lambda _stage, _done: None)
    kept = {name: Block(4).alive(network.conv2.weight).float().mean() for name, network in networks.items()}  # type: ignore[union-attr]
    assert kept == {"dense": 1.0, "sparse": 0.125}
    assert not any(module.training for network in networks.values() for module in network.modules())


def test_the_same_seed_trains_the_same_network_and_leaves_torchs_generator_alone(
    samples: tuple[demo.Samples, demo.Samples],
):
    quick = replace(SMALL, dense_epochs=1, admm_epochs=1)
    before = torch.get_rng_state()
    first, second = (demo.trained(quick, samples[0], lambda _stage, _done: None)["sparse"] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_accuracy_is_that_of_the_compiled_program(samples: tuple[demo.Samples, demo.Samples]):
    test_set = samples[1]
    model = digits_cnn(8).eval()
    with torch.no_grad():
        right = (model(test_set.images).argmax(1) == test_set.labels).float().mean()
    engine = ms.compile(model, test_set.images[:1])
    assert demo.measured_accuracy(engine, test_set) == pytest.approx(float(right), abs=1.5 / 360)


def test_pictures_are_never_trained_on_and_tested_on():
    data = digits()
    train = {image.numpy().tobytes() for image in data.train.images}
    assert not any(image.numpy().tobytes() in train for image in data.test.images)


def test_at_full_size_a_picture_takes_at_least_20_million_macs_and_the_density_is_at_most_an_eighth():
    full = demo.Settings()
    macs = count_macs(digits_cnn(full.width).eval(), torch.zeros(1, 1, full.side, full.side))
    assert macs.dense >= 20e6
    assert full.holes.density <= 0.125


def test_the_command_shows_one_table_with_accuracy_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(demo, "Settings", lambda **options: replace(SMALL, dense_epochs=1, admm_epochs=1, **options))
    shown = CliRunner().invoke(app, ["demo", "--folder", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    for text in ("torch eager", "onnxruntime", "monstera", "dense", "sparse", "accuracy", "KiB", "needs a C++"):
        assert text in shown.stdout
