"""Shrunk modules compute the same; what cannot go stays and is told; a fresh module can be cut from the file."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from monstera.pruning import Gradual
from monstera.sparsity import AttachedError, Cuts, Plan, ShrinkError, shrink
from monstera.sparsity.channels.trace import trace
from monstera.sparsity.shrinking.known import NAN_FAITHFUL, known_values
from monstera.zoo import network, randomize_
from sparsity.test_channels import KINDS, Program, exact


def small_and_same(model: nn.Module, x: Tensor) -> tuple[nn.Module, Cuts]:
    """Shrink a model in float64 and see that its results are the same."""
    with torch.no_grad():
        before = model(x)
        smaller, cuts = shrink(model, x)
        after = smaller(x)
    scale = before.abs().max().clamp_min(1e-30)
    torch.testing.assert_close(after / scale, before / scale, rtol=0, atol=1e-9)
    assert cuts.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in (model, smaller))
    return smaller, cuts


def dead(model: nn.Module, name: str, filters: list[int], emit: float) -> None:
    """Set filters to zero, so that they emit a number."""
    layer = model.get_submodule(name)
    layer.weight.data[filters] = 0
    layer.bias.data[filters] = emit


# ---- what is known -----------------------------------------------------------------------------------------------

CALLS = {
    "add": lambda x: x + 1,
    "alias": lambda x: torch.ops.aten.alias(x),
    "cat": lambda x: torch.cat([x, x], 1),
    "clamp": lambda x: x.clamp(-1, 1),
    "constant_pad_nd": lambda x: torch.ops.aten.constant_pad_nd(x, [1, 1])[..., 1:-1],
    "div": lambda x: x / 3,
    "dropout": lambda x: nn.functional.dropout(x, training=False),
    "mean": lambda x: x.mean(1),
    "pad": lambda x: nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"),
    "rsub": lambda x: torch.rsub(x, 1),
    "sub": lambda x: x - 1,
    "to": lambda x: x.to(torch.float32),
    "_to_copy": lambda x: torch.ops.aten._to_copy(x),
    **{
        f"upsample_nearest{n}d": lambda x, n=n: nn.functional.interpolate(_of_rank(x, n), scale_factor=2)
        for n in (1, 2, 3)
    },
    **{name: lambda x, name=name: getattr(torch, name)(x) for name in ("clone", "exp", "neg", "sigmoid", "tanh")},
    **{
        name: lambda x, name=name: getattr(nn.functional, name)(x)
        for name in (
            "celu",
            "elu",
            "gelu",
            "hardsigmoid",
            "hardswish",
            "hardtanh",
            "leaky_relu",
            "mish",
            "relu",
            "relu6",
            "selu",
            "silu",
            "softplus",
        )
    },
    "contiguous": lambda x: x.contiguous(),
}


def _of_rank(x: Tensor, n: int) -> Tensor:
    return x.flatten(2) if n == 1 else x if n == 2 else x[..., None]


@pytest.mark.parametrize("name", NAN_FAITHFUL.split())
def test_an_operator_that_is_run_on_nan_hands_it_on(name: str) -> None:
    assert CALLS[name](torch.full((1, 2, 3, 3), torch.nan, dtype=torch.float64)).isnan().all()


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda x, _: x.long().to(x), id="cast to whole numbers and back"),
        pytest.param(lambda x, w: torch.addmm(w, x, w, alpha=-1), id="product times less than 0"),
    ],
)
def test_what_depends_on_the_input_is_not_taken_for_known(call) -> None:
    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

        def forward(self, x: Tensor) -> Tensor:
            return call(x, self.weight) * 1.0

    model = Calls()
    found = known_values(trace(model, torch.ones(2, 2)).program, dict(model.named_parameters()))
    result = next(node for node in reversed(found) if node.op == "call_function")
    assert found[result] is None or found[result].isnan().all()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 20)), min_size=1, max_size=8),
    st.integers(0, 99),
    st.sampled_from([0.3, 0.7]),
)
def test_random_programs_with_dead_filters_compute_the_same_when_shrunk(
    steps: list[tuple[str, int]], seed: int, share: float
) -> None:
    model = exact(Program([("conv", 4), *steps]))
    generator = torch.Generator().manual_seed(seed)
    for layer in model.layers.values():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data[torch.rand(len(layer.weight), generator=generator) < share] = 0
            layer.bias.data[torch.rand(len(layer.weight), generator=generator) < 0.5] = 0
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=generator)
    found = known_values(trace(model, x).program, dict(model.named_parameters()) | dict(model.named_buffers()))
    # What is known of the result is so for every input.
    result = next(n for n in found if n.op == "call_function" and not n.users.keys() - {_output(found)})
    actual, known = model(x).detach(), found[result]
    assert torch.allclose(known.nan_to_num(0), actual.where(~known.isnan(), torch.zeros_like(actual)), atol=1e-9)
    small_and_same(model, x)


def _output(found) -> object:
    return next(iter(found)).graph.output_node()


# ---- what goes ---------------------------------------------------------------------------------------------------


def test_what_one_round_refuses_and_the_next_takes_is_not_told_to_stay() -> None:
    layers = nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 2)
    model = exact(nn.Sequential(*layers))
    dead(model, "0", [1], 0.5)
    model[2].weight.data[3] = 0
    smaller, cuts = small_and_same(model, torch.randn(5, 4, dtype=torch.float64))
    assert (smaller[2].in_features, smaller[2].out_features, len(smaller[2].bias)) == (5, 4, 4)
    assert not cuts.stayed


def test_what_dead_filters_emit_goes_into_the_next_bias() -> None:
    model = exact(nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 3)))
    dead(model, "0", [1, 4], 0.5)
    bias = model[2].bias + model[2].weight[:, [1, 4]] @ torch.full((2,), 0.5, dtype=torch.float64).sigmoid()
    smaller, cuts = small_and_same(model, torch.randn(5, 4, dtype=torch.float64))
    assert (smaller[0].out_features, smaller[2].in_features) == (4, 4)
    assert torch.equal(smaller[0].weight, model[0].weight[[0, 2, 3, 5]])
    torch.testing.assert_close(smaller[2].bias, bias)
    assert not cuts.stayed


def test_a_layer_without_bias_gets_one_where_it_has_to_add_something() -> None:
    model = exact(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, bias=False)))
    dead(model, "0", [2], 1.0)
    smaller, cuts = small_and_same(model, torch.randn(1, 2, 7, 7, dtype=torch.float64))
    assert cuts.biases == ("2",)
    assert smaller[1].num_features == 3
    assert smaller[2].bias is not None


@pytest.mark.parametrize(("emit", "left"), [(-1.0, 3), (1.0, 4)])
def test_beside_padding_only_what_emits_zero_goes_and_the_rest_is_told(emit: float, left: int) -> None:
    model = exact(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)))
    dead(model, "0", [1], emit)
    smaller, cuts = small_and_same(model, torch.randn(1, 2, 7, 7, dtype=torch.float64))
    assert smaller[0].out_channels == left
    told = "1 of 0.weight[0]: conv2d_1 pads, so that what it adds is not the same at the edges"
    assert cuts.stayed == ((told,) if emit > 0 else ())


def test_channels_that_nobody_reads_go_and_take_with_them_what_only_they_have_read() -> None:
    model = exact(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)))
    model[4].weight.data[:, 1] = 0
    model[2].weight.data[[0, 2, 3], 4] = 0
    smaller, _ = small_and_same(model, torch.randn(5, 3, dtype=torch.float64))
    assert (smaller[2].out_features, smaller[0].out_features) == (3, 4)


def test_a_dead_channel_of_a_residual_stream_leaves_every_layer_of_it() -> None:
    x = torch.randn(2, 3, 16, 16)
    model = randomize_(network("resnet20"), x).double().eval()
    for name, module in model.named_modules():
        if name == "bn1" or (name.startswith("layer1") and name.endswith("bn2")):
            module.weight.data[[3, 7]] = 0
            module.bias.data[[3, 7]] = 0
    for stage in (model.layer2, model.layer3):
        for block in stage:
            place = torch.tensor([3, 7]) + (8 if stage is model.layer2 else 24)
            block.bn2.weight.data[place] = 0
            block.bn2.bias.data[place] = 0
    smaller, _ = small_and_same(model, x.double())
    # The filters are not zero, but their norms are.
    assert smaller.conv1.out_channels == 14
    assert smaller.layer2[0].conv2.out_channels == 30
    assert smaller.linear.in_features == 62


def test_depthwise_filters_go_with_their_channel() -> None:
    model = exact(nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 2, 1)))
    dead(model, "0", [0, 3], 0.0)
    smaller, _ = small_and_same(model, torch.randn(1, 3, 5, 5, dtype=torch.float64))
    assert (smaller[1].groups, smaller[1].in_channels, smaller[1].out_channels) == (4, 4, 4)
    assert smaller[2].bias is not None


def test_a_convolution_that_makes_several_channels_of_each_is_left_as_it_is() -> None:
    layers = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)
    model = exact(nn.Sequential(*layers))
    dead(model, "2", [1], 0.3)
    smaller, cuts = small_and_same(model, torch.randn(1, 3, 5, 5, dtype=torch.float64))
    assert (smaller[1].groups, smaller[1].in_channels, smaller[1].out_channels) == (6, 6, 12)
    assert smaller[2].out_channels == 3
    assert not cuts.stayed


def test_a_norm_without_factors_knows_its_size_by_its_statistics() -> None:
    model = exact(nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 2)))
    model[2].weight.data[:, 2] = 0
    smaller, _ = small_and_same(model, torch.randn(5, 3, dtype=torch.float64))
    assert (smaller[1].num_features, len(smaller[1].running_mean)) == (5, 5)


def test_heads_lose_as_many_values_each_and_queries_stay() -> None:
    x = torch.randn(2, 5, 48)
    model = randomize_(network("bert_tiny"), x).double().eval()
    attention = model.layer[0].attention["self"]
    dead(attention, "value", [0, 1, 13, 14, 26, 38, 40], 0.3)
    dead(attention, "query", [5], 0.0)
    smaller, cuts = small_and_same(model, x.double())
    assert smaller.layer[0].attention["self"].value.out_features == 44
    assert smaller.layer[0].attention["self"].query.out_features == 48
    assert any(line.startswith("3 of layer.0.attention.self.value.weight[0]") for line in cuts.stayed)


def test_at_least_one_channel_is_left() -> None:
    model = exact(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)))
    dead(model, "0", [0, 1, 2, 3, 4], 0.7)
    smaller, _ = small_and_same(model, torch.randn(5, 3, dtype=torch.float64))
    assert smaller[0].out_features == 1


def test_where_the_code_counts_on_a_size_channels_stay_and_are_told() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.other, self.last = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).view(-1, 6)) + self.last(self.other(x).relu() * 1)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.counts, self.free = Counts(), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.counts(x) + self.free(x)

    model = exact(Both())
    dead(model, "counts.first", [2], 0.0)
    dead(model, "counts.other", [2], 0.0)
    dead(model, "free.0", [1], 0.0)
    smaller, cuts = small_and_same(model, torch.randn(5, 3, dtype=torch.float64))
    assert smaller.free[0].out_features == 3
    assert smaller.counts.first.out_features == 6
    assert any("counts.first.weight[0]: 1 channels cannot go: the module's code counts" in line for line in cuts.stayed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision_is_shrunk_and_differs_by_its_rounding(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.Sigmoid(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
    model.load_state_dict({name: torch.randn(t.shape) for name, t in model.state_dict().items()})
    dead(model, "0", list(range(0, 32, 2)), 0.7)
    model.to(dtype)
    x = torch.randn(5, 8, dtype=dtype)
    smaller, cuts = shrink(model, x)
    assert smaller[0].out_features == 16
    assert not cuts.stayed
    scale = float(model(x).detach().abs().max())
    torch.testing.assert_close(smaller(x), model(x), rtol=0, atol=8 * torch.finfo(dtype).eps * scale)


def test_what_is_known_lies_where_the_program_runs() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).to("meta")
    program = trace(model, torch.zeros(1, 3, device="meta")).program
    assert {t.device.type for t in known_values(program, dict(model.named_parameters())).values()} == {"meta"}


def test_nothing_to_cut_gives_an_equal_copy() -> None:
    model = exact(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)))
    smaller, cuts = small_and_same(model, torch.randn(5, 3, dtype=torch.float64))
    assert smaller is not model
    assert not cuts.kept


# ---- files -------------------------------------------------------------------------------------------------------


def test_a_fresh_module_cut_from_the_file_takes_the_weights(tmp_path: Path) -> None:
    x = torch.randn(2, 1, 8, 8)
    model = randomize_(network("digits_cnn", width=8), x)
    model.conv2.weight.data[[1, 5]] = 0
    model.bn2.bias.data[[1, 5]] = -9.0
    model.conv3.weight.data[3] = 0
    model.train()
    smaller, cuts = shrink(model, x)
    assert smaller.training
    cuts.save(tmp_path / "cuts.json")
    loaded = Cuts.load(tmp_path / "cuts.json")
    assert loaded == cuts
    fresh = loaded.apply_(network("digits_cnn", width=8))
    fresh.load_state_dict(smaller.state_dict())
    assert torch.equal(fresh.eval()(x), smaller.eval()(x))
    torch.testing.assert_close(fresh(x), model.eval()(x), rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in fresh.parameters()) == cuts.parameters[1] < cuts.parameters[0]


def test_cuts_of_another_model_are_refused() -> None:
    cuts = Cuts({"conv2.weight": {0: (0, 1, 9)}})
    model = network("digits_cnn", width=8)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ShrinkError, match="keep index 9 of dimension 0"):
        cuts.apply_(model)
    with pytest.raises(ShrinkError, match="no such parameter"):
        cuts.apply_(nn.Linear(2, 2))
    with pytest.raises(ShrinkError, match="no module 'head'"):
        Cuts({}, ("head",)).apply_(model)
    with pytest.raises(ShrinkError, match="of 99 parameters, but it has"):
        Cuts({"conv2.weight": {0: (0, 1)}}, parameters=(99, 90)).apply_(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": "monstera-masks", "version": 1}',
        '{"format": "monstera-cuts", "version": 2}',
        '{"format": "monstera-cuts", "version": 1, "parameters": [1, 1], "biases": [], "kept": {"w": {"0": [1, 0]}}}',
        '{"format": "monstera-cuts", "version": 1, "parameters": [1, 1], "biases": [], "kept": {"w": {"0": []}}}',
        '{"format": "monstera-cuts", "version": 1, "parameters": [1], "biases": [], "kept": {}}',
    ],
)
def test_a_damaged_file_is_refused(text: str) -> None:
    with pytest.raises(ShrinkError):
        Cuts.from_json(text)


def test_a_model_with_a_pruner_is_not_shrunk() -> None:
    model = network("digits_cnn", width=4)
    pruner = Gradual(model, torch.optim.SGD(model.parameters(), 0.1), Plan({"conv2.weight": ("filter", 0.5)}), steps=1)
    with pytest.raises(AttachedError, match="cut"):
        shrink(model, torch.randn(1, 1, 8, 8))
    pruner.finish()
    smaller, _ = shrink(model, torch.randn(1, 1, 8, 8))
    assert smaller.bn2.num_features <= 4
