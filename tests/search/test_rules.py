from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from monstera.search import Rules, curvature_of
from monstera.search.options import Option, options_of
from monstera.search.rules import dense_by_role, listed_weights
from monstera.sparsity import Block, Entry, PlanError, pattern
from search.affine import Affine


class Mixed(nn.Module):
    """Every kind of layer that a rule speaks of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.three = nn.Conv2d(16, 32, 3, padding=1)
        self.strided = nn.Conv2d(32, 32, 3, stride=2)
        self.depthwise = nn.Conv2d(32, 32, 3, groups=32)
        self.one = nn.Conv2d(32, 64, 1)
        self.five = nn.Conv2d(64, 64, 5)
        self.table = nn.Embedding(10, 64)
        self.hidden = nn.Linear(64, 64)
        self.head = nn.Linear(64, 10)


@pytest.fixture
def model() -> Mixed:
    torch.manual_seed(0)
    return Mixed()


def options(model: nn.Module, costs: Affine, rules: Rules) -> dict[str, tuple[Option, ...]]:
    return options_of(model, costs, rules, curvature_of(model, [*options_names(model)]))


def options_names(model: nn.Module) -> list[str]:
    return [name for name in listed_weights(model) if name not in dense_by_role(model)]


def patterns(found: tuple[Option, ...]) -> set[str]:
    return {str(option.entry.pattern) for option in found if option.entry is not None}


def test_depthwise_first_convolution_and_last_linear_stay_dense(model: Mixed) -> None:
    assert dense_by_role(model) == {
        "stem.weight": "the first convolution",
        "depthwise.weight": "depthwise",
        "head.weight": "the last linear layer",
    }
    found = options(model, Affine.of(model), Rules())
    assert list(found) == ["three.weight", "strided.weight", "one.weight", "five.weight", "hidden.weight"]


def test_embedding_tables_are_not_spoken_of(model: Mixed) -> None:
    assert "table.weight" not in listed_weights(model)


def test_on_easy_tasks_every_layer_gets_blocks(model: Mixed) -> None:
    found = options(model, Affine.of(model), Rules())
    assert all(patterns(layer) <= {"2x1", "4x1", "8x1", "16x1"} for layer in found.values())
    assert all(layer[0].entry is None and layer[0].loss == 0 for layer in found.values())


def test_on_hard_tasks_3x3_convolutions_of_stride_1_get_kernel_patterns(model: Mixed) -> None:
    found = options(model, Affine.of(model), Rules(hard=True))
    assert patterns(found["three.weight"]) == {"patterns4of8"}
    assert found["three.weight"][-1].why == "3x3 of stride 1 on a hard task"
    assert all("patterns4of8" not in patterns(found[n]) for n in found if n != "three.weight")


def test_which_tasks_get_kernel_patterns_can_be_turned_round(model: Mixed) -> None:
    easy = Rules(kernels_if="easy")
    assert patterns(options(model, Affine.of(model), easy)["three.weight"]) == {"patterns4of8"}
    hard = replace(easy, hard=True)
    assert "patterns4of8" not in patterns(options(model, Affine.of(model), hard)["three.weight"])


def test_kernel_patterns_that_do_not_pay_give_way_to_blocks_and_it_is_said(model: Mixed) -> None:
    costs = Affine.of(model, patterns4of8=(0.9, 1.0))
    found = options(model, costs, Rules(hard=True))["three.weight"]
    assert patterns(found) <= {"2x1", "4x1", "8x1", "16x1"}
    assert found[1].why.startswith("patterns4of8 gains only 1.08x; ")


def test_each_density_has_the_smallest_block_within_5_percent_of_the_fastest(model: Mixed) -> None:
    # 4x1 takes .05 + 1.02 d of the dense time and 8x1 .05 + d: 2 % more at most. 2x1 takes .10 + 1.3 d.
    found = options(model, Affine.of(model), Rules())["one.weight"]
    assert [option.entry for option in found[1:]] == [Entry("4x1", density) for density in Rules().densities]
    assert {option.why for option in found[1:]} == {"8x1 is at most 5% faster"}
    exact = options(model, Affine.of(model), Rules(within=0))["one.weight"]
    assert patterns(exact) == {"8x1"}
    assert exact[1].why == "the fastest block"


def test_costs_are_the_cost_models_and_losses_grow_as_densities_fall(model: Mixed) -> None:
    costs = Affine.of(model)
    for name, layer in options(model, costs, Rules()).items():
        assert [option.cost for option in layer] == [costs.layer_ms(name, option.entry) for option in layer]
        losses = [option.loss for option in layer]
        assert losses == sorted(losses)
        assert losses[1] > 0


def test_what_gains_too_little_at_the_lowest_density_stays_dense(model: Mixed) -> None:
    slow = dict.fromkeys(("2x1", "4x1", "8x1", "16x1"), (0.9, 0.5))
    found = options(model, Affine.of(model, **slow), Rules())["five.weight"]
    assert [option.entry for option in found] == [None]
    assert found[0].why == "gains only 1.09x at density 0.03"
    kept = options(model, Affine.of(model, **slow), Rules(least_gain=1.05))["five.weight"]
    assert len(kept) > 1


def test_holes_that_are_slower_than_dense_are_no_option(model: Mixed) -> None:
    slow = dict.fromkeys(("2x1", "4x1", "8x1", "16x1"), (0.5, 0.8))
    found = options(model, Affine.of(model, **slow), Rules())["five.weight"]
    assert max(option.entry.density for option in found if option.entry) == 0.5
    assert all(option.cost < found[0].cost for option in found[1:])


def test_a_weight_that_no_block_fits_stays_dense_with_the_reason(model: Mixed) -> None:
    found = options(model, Affine.of(model, **{"2:4": (0.5, 0.1)}), Rules(blocks=(pattern("2:4"),), densities=(0.25,)))
    (option,) = found["one.weight"]
    assert option.entry is None
    assert option.why.startswith("no pattern fits: 2:4 keeps exactly 0.5")


def test_n_of_m_is_offered_at_its_own_density_only(model: Mixed) -> None:
    costs = Affine.of(model, **{"2:4": (0.05, 0.1)})
    found = options(model, costs, Rules(blocks=(pattern("2:4"), Block(4, 1)), densities=(0.5, 0.25)))["one.weight"]
    assert [str(option.entry.pattern) for option in found[1:] if option.entry] == ["2:4", "4x1"]


def test_a_weight_that_no_call_uses_stays_dense(model: Mixed) -> None:
    costs = Affine.of(model)
    without = replace(costs, dense={n: ms for n, ms in costs.dense.items() if n != "one.weight"})
    (option,) = options(model, without, Rules())["one.weight"]
    assert (option.entry, option.cost, option.why) == (None, 0.0, "a call of the network does not use it")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"blocks": ()}, "at least one block and one density"),
        ({"densities": (0.5, 1.0)}, r"lie in \(0, 1\), got \(1.0, 0.5\)"),
        ({"least_gain": 0.9}, "least_gain >= 1"),
        ({"within": -0.1}, "within >= 0"),
        ({"kernels_if": "always"}, '"hard" or "easy", got \'always\''),
        ({"blocks": (pattern("4x1@network"),)}, '4x1@network: its groups compete across layers.*take scope "layer"'),
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rules(**wrong)


def test_a_model_without_weights_to_prune_is_refused() -> None:
    with pytest.raises(PlanError, match="no weight is left to prune"):
        options_of(nn.Sequential(nn.Linear(4, 4)), Affine({}), Rules(), curvature_of(nn.Sequential(), []))
