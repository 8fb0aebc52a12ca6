from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from monstera.sparsity import PLAIN, Layout, ViewError, WeightView, find_view, register_view, weight_views

# module, parameter, canonical shape
KINDS = [
    (nn.Linear(5, 6), "weight", (1, 6, 5, 1)),
    (nn.Embedding(7, 3), "weight", (1, 7, 3, 1)),
    (nn.Conv1d(4, 6, 3, groups=2), "weight", (2, 3, 2, 3)),
    (nn.Conv2d(4, 6, (3, 2)), "weight", (1, 6, 4, 6)),
    (nn.Conv3d(4, 8, (2, 3, 2), groups=4), "weight", (4, 2, 1, 12)),
    (nn.ConvTranspose1d(4, 6, 3), "weight", (1, 6, 4, 3)),
    (nn.ConvTranspose2d(4, 6, 3, groups=2), "weight", (2, 3, 2, 9)),
    (nn.ConvTranspose3d(4, 6, 2), "weight", (1, 6, 4, 8)),
    (nn.RNN(5, 4), "weight_hh_l0", (1, 4, 4, 1)),
    (nn.GRU(5, 4, num_layers=2, bidirectional=True), "weight_ih_l1_reverse", (3, 4, 8, 1)),
    (nn.LSTM(5, 4), "weight_ih_l0", (4, 4, 5, 1)),
    (nn.LSTM(5, 4), "weight_hh_l0", (4, 4, 4, 1)),
    (nn.LSTM(5, 4, proj_size=3), "weight_hr_l0", (1, 3, 4, 1)),
    (nn.GRUCell(5, 4), "weight_hh", (3, 4, 4, 1)),
    (nn.LSTMCell(5, 4), "weight_ih", (4, 4, 5, 1)),
    (nn.MultiheadAttention(6, 2), "in_proj_weight", (3, 6, 6, 1)),
    (nn.MultiheadAttention(6, 2, kdim=4), "k_proj_weight", (1, 6, 4, 1)),
]


def test_every_known_module_type_is_seen_in_canonical_form_and_restored() -> None:
    for module, parameter, shape in KINDS:
        view = WeightView(module, parameter)
        assert tuple(view.canonical().shape) == shape, module
        assert torch.equal(view.restore(view.canonical()), view.weight), module


def test_the_slices_of_a_grouped_convolution_are_its_groups() -> None:
    module = nn.Conv2d(4, 6, 3, groups=2)
    second_group = module.weight[3:].flatten(2)
    assert torch.equal(WeightView(module).canonical()[1], second_group)


def test_rows_of_a_transposed_convolution_are_its_output_channels() -> None:
    module = nn.ConvTranspose2d(4, 6, 3, groups=2)
    # torch: [in, out / groups, *kernel]; output channel 1 of group 1 reads input channels 2 and 3.
    assert torch.equal(WeightView(module).canonical()[1, 1], module.weight[2:, 1].flatten(1))


def test_the_slices_of_an_lstm_are_its_gates_in_order() -> None:
    module = nn.LSTM(5, 4)
    gates = module.weight_ih_l0.chunk(4)
    canonical = WeightView(module, "weight_ih_l0").canonical()
    assert all(torch.equal(canonical[i, :, :, 0], gate) for i, gate in enumerate(gates))


def test_transposed_parts_are_runs_of_the_second_dimension() -> None:
    weight = torch.randn(4, 9)
    canonical = Layout(parts=3, transposed=True).to_canonical(weight)
    assert torch.equal(canonical[2, :, :, 0], weight[:, 6:].T)


@given(
    parts=st.integers(1, 3),
    groups=st.integers(1, 3),
    out=st.integers(1, 4),
    in_=st.integers(1, 4),
    kernel=st.lists(st.integers(1, 3), max_size=3),
    transposed=st.booleans(),
)
def test_there_and_back_again_changes_nothing(
    parts: int, groups: int, out: int, in_: int, kernel: list[int], transposed: bool
) -> None:
    layout = Layout(parts, groups, transposed)
    shape = [groups * in_, parts * out, *kernel] if transposed else [parts * groups * out, in_, *kernel]
    weight = torch.randn(shape)
    canonical = layout.to_canonical(weight)
    assert tuple(canonical.shape) == layout.extents(weight.shape)
    assert torch.equal(layout.from_canonical(canonical, weight.shape), weight)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2, 2, 2, 2), (4, 0, 3, 3), (5, 4)])
def test_shapes_that_a_layout_cannot_hold_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ViewError):
        Layout(parts=2).extents(shape)


def test_an_unknown_module_type_is_refused_with_the_line_that_registers_it() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 8))

    with pytest.raises(ViewError, match=r"register_view\(Odd, lambda module"):
        WeightView(Odd())
    register_view(Odd, lambda _: {"weight": Layout(transposed=True)})
    assert WeightView(Odd()).canonical().shape == (1, 8, 3, 1)


def test_a_subclass_is_seen_like_its_base() -> None:
    class Mine(nn.Conv2d):
        pass

    assert WeightView(Mine(4, 4, 3, groups=2)).layout == Layout(groups=2)


@pytest.mark.parametrize(
    ("wrap", "advice"),
    [
        (parametrizations.spectral_norm, "remove_parametrizations"),
        (parametrizations.weight_norm, "remove_parametrizations"),
        (weight_norm, "remove_weight_norm"),
        (lambda module: prune.l1_unstructured(module, "weight", 0.5), "prune.remove"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
def test_a_computed_weight_is_refused_with_advice(wrap, advice: str) -> None:
    with pytest.raises(ViewError, match=advice):
        WeightView(wrap(nn.Linear(4, 4)))


def test_a_parametrised_recurrent_weight_is_refused_with_advice_too() -> None:
    with pytest.raises(ViewError, match="remove_parametrizations"):
        WeightView(parametrizations.weight_norm(nn.LSTM(4, 4), "weight_hh_l0"), "weight_hh_l0")


def test_a_lazy_weight_is_refused_until_the_model_has_run() -> None:
    module = nn.LazyLinear(4)
    with pytest.raises(ViewError, match="run the model once"):
        WeightView(module)
    module(torch.zeros(1, 3))
    assert WeightView(module).layout == PLAIN


def test_an_unknown_parameter_is_refused_with_the_closest_name() -> None:
    with pytest.raises(ViewError, match="'weight'"):
        WeightView(nn.Linear(2, 2), "wight")


def test_all_weights_of_a_model_are_found_by_name_and_shared_ones_once(convnet, tied) -> None:
    assert list(weight_views(convnet))[:2] == ["stem.weight", "body.0.weight"]
    assert "body.1.weight" not in weight_views(convnet), "batch norm has no weight matrix"
    assert list(weight_views(tied)) == ["table.weight", "hidden.weight"]


def test_any_name_of_a_shared_weight_finds_it_and_a_wrong_one_gets_a_suggestion(tied) -> None:
    assert find_view(tied, "out.weight").weight is tied.table.weight
    with pytest.raises(ViewError, match=r"hidden\.weight"):
        find_view(tied, "hiden.weight")


def test_the_linear_layer_of_gpt2_is_known_without_importing_its_package() -> None:
    kind = type("Conv1D", (nn.Module,), {"__module__": "transformers.pytorch_utils"})
    module = kind()
    module.weight = nn.Parameter(torch.arange(15.0).reshape(3, 5))
    assert torch.equal(WeightView(module).canonical()[0, :, :, 0], module.weight.T)
