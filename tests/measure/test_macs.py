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
