"""The compiler held to other choices than its own."""

import re

import pytest
import torch
from torch import nn

import monstera as ms
from monstera.compiler.lowering.choice import Case as Layer
from monstera.compiler.lowering.choice import Choice
from monstera.compiler.tuning import Table
from monstera.measure import fastest_of, held_to, in_blocks


@pytest.fixture
def conv() -> nn.Module:
    """Rows that share their columns by eight."""
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 32, 3, padding=1).eval()
    with torch.no_grad():
        conv.weight.mul_((torch.rand(4, 16, 3, 3) < 0.3).repeat_interleave(8, 0))
    return conv


EXAMPLE = torch.linspace(-1, 1, 16 * 400).reshape(1, 16, 20, 20)


def blocks_and_tiles(model: nn.Module, tuning: Table) -> set[tuple[int, int]]:
    """The rows of every kernel in the code, and the half vectors of its tiles."""
    engine = ms.compile(model, EXAMPLE, target="avx2", tuning=tuning)
    torch.testing.assert_close(engine(EXAMPLE), model(EXAMPLE))
    found = re.findall(r"case (\d+): .*?f32_spmm_planes_(\d+)x\d+_avx2", engine.c_source)
    return {(int(rows), int(halves)) for halves, rows in found}


@pytest.mark.parametrize(("rows", "tile"), [(8, 1), (4, 2), (1, 5)])
def test_a_layer_runs_in_the_blocks_and_tiles_that_it_is_held_to(conv: nn.Module, rows: int, tile: int):
    tuning = held_to(lambda layer: in_blocks(layer, rows, tile), conv, EXAMPLE, target="avx2")
    found = blocks_and_tiles(conv, tuning)
    assert {size for size, _ in found} == {rows}
    assert max(halves for _, halves in found) == 2 * tile


def test_blocks_that_a_layer_cannot_be_cut_into_are_refused_with_those_it_can(conv: nn.Module):
    with pytest.raises(ValueError, match=r"no blocks of 3 rows here; the layer can be cut into \[\(1,\), .*\(8,\)"):
        held_to(lambda layer: in_blocks(layer, 3), conv, EXAMPLE, target="avx2")


def test_the_fastest_of_several_is_one_of_them_and_its_time_is_known(conv: nn.Module):
    offered = [Choice("natural", (8,), 1), Choice("natural", (4,), 3)]
    tuning = fastest_of(lambda _: offered, conv, EXAMPLE, target="avx2")
    ((key, choice),) = tuning.choices.items()
    assert choice in offered
    assert tuning.ms[key] > 0


def test_every_layer_of_a_network_is_asked_for(conv: nn.Module):
    seen: list[Layer] = []

    def plainest(layer: Layer) -> Choice:
        seen.append(layer)
        return in_blocks(layer, 1)

    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(32 * 400, 8)).eval()
    held_to(plainest, model, EXAMPLE, target="avx2")
    assert [layer.vectors > 0 for layer in seen] == [True, False]
