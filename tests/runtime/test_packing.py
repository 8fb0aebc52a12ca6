"""The packing plan says how weights lie, and what that was predicted and measured to cost."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import monstera as ms
from monstera.runtime import PackingPlan, Profile
from monstera.runtime.manifest import read_manifest


@pytest.fixture(scope="module")
def mixed() -> ms.Engine:
    """A layer of 4x1 blocks with scattered rows below them, then a dense linear layer."""
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 48, 3, padding=1)
    ms.prune(conv, ms.Plan({"weight": ("4x1", 0.2)}))
    with torch.no_grad():
        conv.weight[32:] = ms.pattern("unstructured").project(torch.randn(16, 16, 3, 3), 0.1)
    model = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 32)).eval()
    return ms.compile(model, torch.randn(1, 16, 30, 30))


def test_a_layer_of_several_block_sizes_is_one_row(mixed):
    conv, linear = mixed.plan().layers
    assert (conv.layer, conv.rows, conv.blocks) == ("0", 48, ((4, 8), (1, 16)))
    assert (linear.layer, linear.rows, linear.share) == ("4", 32, 1.0)


def test_zeros_are_what_is_stored_beyond_the_surviving_weights(mixed):
    conv, _ = mixed.plan().layers
    assert (conv.dense, conv.zeros) == (48 * 144, 0)
    parts = [part for step in mixed.manifest.layers if step.layer == "0" for part in step.packing]
    assert conv.weights == sum(part.weights for part in parts)
    assert conv.share == conv.stored / (48 * 144)


def test_the_prediction_scales_with_the_peak_and_is_never_faster_than_it(mixed):
    slow, fast = mixed.plan(peak_gflops=50.0), mixed.plan(peak_gflops=200.0)
    for a, b in zip(slow.layers, fast.layers, strict=True):
        assert a.predicted_ms == pytest.approx(4 * b.predicted_ms)
    assert slow.layers[0].predicted_ms >= 2 * slow.layers[0].weights * 900 / 50e6


def test_without_a_profile_nothing_was_measured(mixed):
    assert all(layer.measured_ms is None for layer in mixed.plan().layers)


def test_measured_times_are_those_of_the_profile_summed_over_the_calls_of_a_layer(mixed):
    profile = mixed.profile(rounds=2)
    conv, _ = mixed.plan(profile).layers
    assert conv.measured_ms is not None
    assert conv.measured_ms == pytest.approx(sum(p.ms for p in profile.layers if p.layer == "0" and p.macs))


def test_the_table_has_a_row_a_layer_and_their_sum(mixed):
    text = str(mixed.plan(mixed.profile(rounds=1), peak_gflops=100.0)).splitlines()
    assert text[0].split()[:4] == ["layer", "order", "rows", "blocks"]
    assert "8 of 4, 16 of 1" in text[1]
    assert text[3].startswith("all")
    assert text[-1] == "predicted for a peak of 100 GFLOP/s"


def test_the_plan_is_saved_with_the_engine(mixed, tmp_path):
    mixed.save(tmp_path / "net.monstera")
    assert ms.load(tmp_path / "net.monstera").plan() == mixed.plan()


def test_the_profile_of_another_engine_is_refused(mixed):
    profile = mixed.profile(rounds=1)
    with pytest.raises(ValueError, match=r"the profile has \d+ steps that are not the \d+ of this engine"):
        mixed.plan(Profile(profile.layers[:-1], profile.ms))


@pytest.mark.parametrize("peak", [0.0, -1.0, float("nan")])
def test_an_impossible_peak_is_refused(mixed, peak):
    with pytest.raises(ValueError, match="peak_gflops must be positive"):
        mixed.plan(peak_gflops=peak)


def test_a_network_without_weights_has_an_empty_plan():
    plan = ms.compile(nn.ReLU().eval(), torch.randn(1, 3, 4, 4)).plan()
    assert plan == PackingPlan((), plan.peak_gflops)
    assert "all" in str(plan)


def test_a_damaged_packing_is_refused(mixed):
    manifest = mixed.manifest
    layers = (dataclasses.replace(manifest.layers[0], packing=()), *manifest.layers[1:])
    programs = (dataclasses.replace(manifest.programs[0], layers=layers),)
    assert read_manifest(dataclasses.replace(manifest, programs=programs).to_json(), "here").layers[0].packing == ()
    broken = manifest.to_json().replace(b'"stored"', b'"sored"')
    with pytest.raises(ms.ArtifactError, match="damaged"):
        read_manifest(broken, "here")
