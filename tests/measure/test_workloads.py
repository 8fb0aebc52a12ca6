"""The networks that are measured: which weights get which holes, and how uneven they are."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from monstera.measure import (
    count_macs,
    dense_network,
    example,
    holes,
    input_size,
    sparse_copy,
    trained_network,
    uneven_scores,
)
from monstera.sparsity import PatternError, Plan
from monstera.zoo import NETWORKS, network

TRAINED = Path(__file__).resolve().parents[2] / "recipes" / "results" / "cifar10_resnet20.safetensors"


def with_linear() -> nn.Module:
    layers = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 3), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(64, 48), nn.Linear(48, 10))


def variation(weight: Tensor) -> float:
    """How uneven rows of four filters are: the standard deviation of their densities by the mean."""
    rows = (weight != 0).float().flatten(1).unflatten(0, (-1, 4)).mean((1, 2))
    return float(rows.std() / rows.mean())


def test_convolutions_and_linear_layers_get_their_own_pattern_and_the_rest_stays_dense():
    (way,) = holes(["4x1/16x1"], [0.25])
    assert {name: str(entry) for name, entry in way.plan(with_linear()).items()} == {
        "2.weight": "4x1 at density 0.25",
        "4.weight": "16x1 at density 0.25",
    }
    assert str(way) == "4x1/16x1 at density 0.25"


def test_recurrent_layers_count_as_linear_ones():
    (way,) = holes(["4x1/16x1"], [0.1])
    entries = way.plan(network("gru_speech_small"))
    assert len(entries) == 4
    assert {str(entry) for entry in entries.values()} == {"16x1 at density 0.1"}


def test_all_linear_layers_of_an_encoder_are_pruned():
    (way,) = holes(["4x1/8x1"], [0.1])
    entries = way.plan(network("bert_tiny"))
    assert {str(entry) for entry in entries.values()} == {"8x1 at density 0.1"}
    assert len(entries) == 2 * 6


def test_a_linear_layer_that_holds_its_weight_turned_is_no_convolution_and_computed_weights_stay_dense():
    hf = pytest.importorskip("transformers")
    (way,) = holes(["4x1/16x1"], [0.25])
    model = nn.Sequential(hf.pytorch_utils.Conv1D(32, 16), nn.utils.parametrizations.weight_norm(nn.Linear(32, 16)))
    assert {name: str(entry) for name, entry in way.plan(model).items()} == {"0.weight": "16x1 at density 0.25"}


def test_what_is_skipped_stays_dense():
    (way,) = holes(["4x1"], [0.5])
    assert list(way.plan(with_linear(), ["4.*"])) == ["2.weight"]


def test_one_pattern_stands_for_all_layers():
    (way,) = holes(["8x1"], [0.5])
    assert {str(entry) for entry in way.plan(with_linear()).values()} == {"8x1 at density 0.5"}
    assert str(way) == "8x1 at density 0.5"


def test_every_pattern_meets_every_density_but_those_that_have_their_own():
    named = [str(way) for way in holes(["4x1/16x1", "2:4", "unstructured=0.1"], [0.25, 0.1], [0.1])]
    assert named == [
        "4x1/16x1 at density 0.25",
        "4x1/16x1 at density 0.1",
        "2:4 at density 0.5",
        "unstructured at density 0.1",
        "4x1/16x1 uneven at density 0.1",
    ]


@pytest.mark.parametrize("text", ["4x1=often", "4x1=", "5by1"])
def test_a_pattern_that_cannot_be_read_is_refused(text: str):
    with pytest.raises((ValueError, PatternError), match=f"got '{text}'|unknown pattern '{text}'"):
        holes([text], [0.1])


@pytest.mark.parametrize("pattern", ["4x1/16x1", "8x4", "unstructured", "filter", "4x1@2:4"])
def test_uneven_masks_obey_the_same_plan(pattern: str):
    density = [] if "@" in pattern else [0.5]
    ways = holes([pattern], density or [0.5], density)
    model = sparse_copy(with_linear().eval(), ways[-1], torch.randn(2, 3, 8, 8))
    report = ways[-1].plan(model).verify(model)
    assert report.ok
    assert report.density == pytest.approx(0.5, abs=0.02)


def test_uneven_masks_are_about_twice_as_uneven_as_those_of_a_trained_network():
    trained = network("resnet20")
    trained.load_state_dict(safetensors.torch.load_file(TRAINED))
    even, uneven = (
        sparse_copy(dense_network("resnet20", torch.randn(2, 3, 32, 32)), way, torch.randn(2, 3, 32, 32))
        for way in holes(["4x1"], [0.25], [0.25])
    )
    names = list(Plan.uniform(trained, "4x1", 0.25))
    mean = [sum(variation(m.state_dict()[name]) for name in names) / len(names) for m in (even, trained, uneven)]
    assert mean[0] < 0.5 * mean[1]
    assert 1.5 < mean[2] / mean[1] < 2.5


def test_uneven_scores_are_the_same_for_the_same_seed_and_spread_none_of_them_leaves_the_squares():
    model = with_linear()
    plan = Plan.uniform(model, "4x1", 0.25)
    first, second, third = (uneven_scores(model, plan, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in plan)
    assert not any(torch.equal(first[name], third[name]) for name in plan)
    flat = uneven_scores(model, plan, 1, spread=0)
    assert all(torch.equal(flat[name], weight.detach().square()) for name, weight in plan.weights(model).items())


def test_the_dense_network_is_left_as_it_was():
    dense = with_linear().eval()
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    sparse_copy(dense, holes(["4x1"], [0.25])[0], torch.randn(2, 3, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())


def test_trained_weights_keep_their_holes_and_foreign_ones_are_refused(tmp_path: Path):
    model = trained_network("resnet20", TRAINED)
    assert Plan.uniform(model, "4x1", 0.25).verify(model).ok
    assert not model.training
    with pytest.raises(ValueError, match=r"cifar10_resnet20\.safetensors: not the weights of resnet18 \(Error"):
        trained_network("resnet18", TRAINED)
    (tmp_path / "broken").write_text("{}")
    with pytest.raises(ValueError, match="broken: not the weights of resnet20"):
        trained_network("resnet20", tmp_path / "broken")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_takes_the_input_that_is_called_its_usual_one(name: str):
    with torch.device("meta"):
        inputs = example(name, input_size(name), 3)
        answer = network(name).eval()(*(inputs if isinstance(inputs, tuple) else (inputs,)))
        assert len(answer[0] if isinstance(answer, tuple) else answer) == 3


def test_a_step_of_gpt2_is_pruned_with_the_head_that_is_its_table():
    dense = dense_network("gpt2_step_small", example("gpt2_step_small", (16,), 2))
    inputs = example("gpt2_step_small", (7,))
    sparse = sparse_copy(dense, holes(["4x1/16x1"], [0.25])[0], example("gpt2_step_small", (16,), 2))
    head, table = sparse.get_parameter("lm_head.weight"), sparse.get_parameter("transformer.wte.weight")
    assert head is table
    assert 0.2 < float((head != 0).float().mean()) < 0.3
    macs = count_macs(sparse, inputs)
    attention = 2 * 2 * 48 * 8
    linear = 2 * 12 * 48 * 48 + 101 * 48
    assert macs.dense == linear + attention
    assert macs.surviving < 0.3 * linear + attention
    assert sparse(*inputs)[0].std() > 0.1


@pytest.mark.parametrize(
    ("name", "text"), [("resnet50", "8by8"), ("resnet50", "3x224"), ("vgg16", "3x0x224"), ("c3d", "3x112x112")]
)
def test_an_input_of_another_form_is_refused(name: str, text: str):
    with pytest.raises(ValueError, match=f"sizes such as 3x.*got '{text}'"):
        input_size(name, text)


def test_an_input_is_read_from_text():
    assert input_size("resnet50", "3x160x128") == (3, 160, 128)
    assert input_size("r2plus1d_18", "3x8x56x56") == (3, 8, 56, 56)
