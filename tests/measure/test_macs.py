import pytest
import torch
from torch import nn

from monstera.measure import Macs, count_macs


def test_a_convolution_counts_each_weight_once_per_output_pixel_padding_and_batch_included():
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    assert count_macs(conv, torch.zeros(2, 3, 9, 7)).dense == 8 * 3 * 9 * (5 * 4) * 2


def test_a_convolution_in_three_dimensions_counts_every_frame_of_its_output():
    conv = nn.Conv3d(3, 8, 3, stride=(1, 2, 2), padding=1)
    assert count_macs(conv, torch.zeros(1, 3, 4, 9, 7)).dense == 8 * 3 * 27 * (4 * 5 * 4)


def test_grouped_convolutions_count_only_the_weights_they_have():
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    assert count_macs(conv, torch.zeros(1, 8, 5, 5)).dense == 8 * 9 * 25


def test_a_linear_layer_over_tokens_counts_each_token():
    assert count_macs(nn.Linear(16, 4), torch.zeros(2, 5, 16)).dense == 16 * 4 * 10


def test_a_transposed_convolution_counts_per_input_pixel():
    assert count_macs(nn.ConvTranspose2d(4, 6, 2, stride=2), torch.zeros(1, 4, 3, 5)).dense == 4 * 6 * 4 * 15


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_a_recurrent_layer_counts_the_products_of_input_and_state_in_every_step(kind, gates):
    layer = kind(5, 7, num_layers=2, bidirectional=True)
    assert count_macs(layer, torch.zeros(9, 2, 5)).dense == 2 * gates * 7 * (5 + 7 + 14 + 7) * 9 * 2


def test_a_recurrent_cell_counts_one_step():
    assert count_macs(nn.GRUCell(5, 7), torch.zeros(3, 5)).dense == 3 * 7 * (5 + 7) * 3


class Attention(nn.Module):
    """Scaled dot products, as one operator or written out."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if self.whole:
            return nn.functional.scaled_dot_product_attention(q, k, v)
        return (q @ k.mT).softmax(-1) @ v


@pytest.mark.parametrize("whole", [True, False])
def test_attention_counts_the_scores_and_the_sums_of_values(whole):
    q, k, v = torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 7, 4), torch.zeros(2, 3, 7, 4)
    assert count_macs(Attention(whole), (q, k, v)) == Macs(*[2 * 3 * (5 * 7 * 4 + 5 * 7 * 4)] * 2)


class Asked(nn.Module):
    """Attention with queries of one sequence and keys of another, given by name."""

    def __init__(self, weights: bool, **sizes: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **sizes)
        self.weights = weights

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.attention(query=x, key=y, value=y, need_weights=self.weights)[0]


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize(("width", "sizes"), [(8, {}), (6, {"kdim": 6, "vdim": 6})])
def test_a_module_of_attention_counts_its_four_layers_and_its_products(weights, width, sizes):
    x, y = torch.zeros(3, 5, 8), torch.zeros(3, 7, width)
    layers = 5 * 8 * 8 + 2 * 7 * width * 8 + 5 * 8 * 8
    assert count_macs(Asked(weights, **sizes).eval(), (x, y)).dense == 3 * (layers + 2 * 5 * 7 * 8)


@pytest.mark.parametrize("fast", [True, False])
def test_an_encoder_of_torch_counts_the_same_on_its_fast_path_which_is_as_it_was_afterwards(fast):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with torch.no_grad():
        for each in model.layers:
            each.self_attn.in_proj_weight[:8] = 0
            each.linear1.weight[8:] = 0
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        macs = count_macs(model, torch.randn(3, 5, 8))
        assert torch.backends.mha.get_fastpath_enabled() == fast
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    weights, products = 4 * 8 * 8 + 2 * 8 * 16, 2 * 5 * 8
    assert macs == Macs(2 * 3 * 5 * (weights + products), 2 * 3 * 5 * (weights - 8 * 8 - 8 * 8 + products))


def test_counting_that_fails_leaves_the_fast_path_as_it_was():
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError):
        count_macs(nn.Linear(4, 4), torch.zeros(1, 5))
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_layer_that_gets_its_input_by_name_counts_as_any_other():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose1d(4, 6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.up(input=x)

    assert count_macs(Named(), torch.zeros(1, 4, 5)).dense == 4 * 6 * 2 * 5


class Positions(nn.Module):
    """A layer over a parameter, as DeBERTa has for its distances; two of them in attention."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(1, 7, 4))
        self.layer = nn.Linear(4, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.layer(self.table).mT


@pytest.mark.parametrize("trainable", [True, False])
def test_a_layer_counts_once_when_a_parameter_is_its_input_and_when_it_is_frozen(trainable):
    model = Positions().requires_grad_(trainable)
    assert count_macs(model, torch.zeros(1, 5, 6)).dense == 7 * 4 * 6 + 5 * 6 * 7


def test_a_frozen_layer_counts_once_on_tokens_that_lie_apart():
    layer = nn.Linear(4, 6, bias=False).requires_grad_(False)
    assert count_macs(layer, torch.zeros(3, 4, 5).mT).dense == 3 * 5 * 4 * 6


def test_only_weights_that_are_not_zero_survive():
    conv = nn.Conv2d(4, 4, 1)
    with torch.no_grad():
        conv.weight[1:] = 0
    macs = count_macs(nn.Sequential(conv, nn.ReLU()), torch.zeros(1, 4, 3, 3))
    assert macs == Macs(dense=16 * 9, surviving=4 * 9)


def test_a_layer_that_is_used_twice_counts_twice():
    layer = nn.Linear(4, 4)
    assert count_macs(nn.Sequential(layer, layer), torch.zeros(1, 4)).dense == 32


def test_counting_leaves_no_hook_behind_even_when_the_network_fails():
    layer = nn.Linear(4, 4)
    with pytest.raises(RuntimeError):
        count_macs(layer, torch.zeros(1, 5))
    assert not layer._forward_hooks


def test_more_survivors_than_weights_are_refused():
    with pytest.raises(ValueError, match="surviving"):
        Macs(dense=1, surviving=2)
