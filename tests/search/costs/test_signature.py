"""Signatures are equal if and only if what decides a layer's time is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monstera.search.costs.signature import Signature
from monstera.search.costs.subject import subject_of


def _signature(layer: nn.Module, shape: tuple[int, ...] = (1, 8, 12, 12), threads: int = 1) -> Signature:
    subject = subject_of(nn.Sequential(layer).eval(), torch.zeros(*shape), threads)
    (signature,) = subject.signatures.values()
    return signature


def test_names_and_values_of_a_layer_do_not_matter():
    first = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)).eval()
    one, other = subject_of(first, torch.zeros(1, 8, 12, 12)).signatures.values()
    assert one == other == _signature(nn.Conv2d(8, 8, 3, padding=1))
    assert one.key == other.key


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(8, 12, 3),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.Conv2d(8, 16, 3, dilation=2),
        nn.Conv2d(8, 16, 3, groups=2),
        nn.Conv2d(8, 16, 1),
        nn.ConvTranspose2d(8, 16, 3),
        nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU()),
    ],
)
def test_another_layer_has_another_signature(other):
    assert _signature(nn.Conv2d(8, 16, 3)).key != _signature(other).key


def test_shapes_batch_and_threads_are_parts_of_it():
    layer = nn.Conv2d(8, 16, 3)
    keys = {_signature(layer).key, _signature(layer, threads=2).key}
    keys |= {_signature(layer, (1, 8, 12, 13)).key, _signature(layer, (2, 8, 12, 12)).key}
    assert len(keys) == 4


def test_multiply_accumulates_count_every_use():
    shared = nn.Conv2d(8, 8, 3, padding=1)
    assert _signature(nn.Sequential(shared, shared)).macs == 2 * 8 * 8 * 9 * 144
    assert _signature(nn.Linear(8, 16), (3, 8)).macs == 3 * 8 * 16


def test_the_matrices_of_a_recurrent_layer_are_two_weights_and_run_once_a_step():
    subject = subject_of(nn.GRU(8, 16).eval(), torch.zeros(5, 2, 8))
    macs = {name: signature.macs for name, signature in subject.signatures.items()}
    assert macs == {"weight_ih_l0": 5 * 2 * 48 * 8, "weight_hh_l0": 5 * 2 * 48 * 16}


def test_parts_of_a_matrix_count_together():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    subject = subject_of(Attention().eval(), torch.zeros(1, 20, 16))
    macs = {name: signature.macs for name, signature in subject.signatures.items()}
    assert macs == {"attention.in_proj_weight": 20 * 48 * 16, "attention.out_proj.weight": 20 * 16 * 16}


def test_graphs_that_differ_in_anything_but_names_and_values_have_other_fingerprints():
    def fingerprint(*layers, threads=1):
        return subject_of(nn.Sequential(*layers).eval(), torch.zeros(1, 8, 12, 12), threads).fingerprint

    plain = fingerprint(nn.Conv2d(8, 8, 3), nn.MaxPool2d(2))
    assert plain == fingerprint(nn.Conv2d(8, 8, 3), nn.MaxPool2d(2))
    assert plain != fingerprint(nn.Conv2d(8, 8, 3), nn.MaxPool2d(2), threads=2)
    assert plain != fingerprint(nn.Conv2d(8, 8, 3), nn.AvgPool2d(2))
