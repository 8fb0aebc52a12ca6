"""A space: what each weight may be, which names mean the same holes, and points as plans."""

from __future__ import annotations

import itertools
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from monstera.search.space import Space
from monstera.sparsity import Entry, Plan, find_view
from search.affine import Affine


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 12, 3),
        nn.Conv2d(12, 12, 3, groups=12),
        nn.Conv2d(12, 8, 1),
        nn.Conv2d(8, 6, 5),
        nn.Flatten(),
        nn.Linear(6, 10),
        nn.Linear(10, 4),
    )


MODEL = network()
SPACE = Space.of(
    MODEL,
    Affine.of(MODEL),
    ("unstructured", "4x1", "8x4", "8x4xall", "patterns4of8", "2:4", "1x1xall"),
    (1.0, 0.5, 0.25),
)


def test_the_first_convolution_depthwise_ones_and_the_last_linear_layer_are_no_part_of_it():
    assert SPACE.weights == ("1.weight", "3.weight", "4.weight", "6.weight")


def test_patterns_of_kernels_are_for_kernels_of_3x3_only():
    having = [name for name, labels in SPACE.choices.items() if any("patterns4of8" in label for label in labels)]
    assert having == ["1.weight"]


def test_what_does_not_fit_a_weight_is_left_out():
    # Kernels of 1x1 have no kernel groups of their own: 1x1xall there is unstructured, which came first.
    assert not any(label.startswith("kernel") for label in SPACE.choices["3.weight"])
    assert "2:4 at density 0.5" in SPACE.choices["6.weight"]


def test_density_one_is_dense_whatever_the_pattern():
    assert not any(entry is not None and entry.density == 1 for entry in SPACE.actions)
    assert SPACE.point({"1.weight": ("4x1", 1.0)}) == SPACE.point({})


def test_blocks_over_all_positions_of_a_single_one_are_the_blocks():
    wide, narrow = Entry("8x4xall", 0.25), Entry("8x4", 0.25)
    assert SPACE.point({"3.weight": wide}) == SPACE.point({"3.weight": narrow})
    assert SPACE.point({"1.weight": wide}) != SPACE.point({"1.weight": narrow})


def test_actions_that_are_allowed_make_different_holes_and_all_others_the_holes_of_their_meaning():
    for place, name in enumerate(SPACE.weights):
        view = find_view(MODEL, name)

        def holes(action: int, view=view) -> torch.Tensor:
            entry = SPACE.actions[action]
            return view.weight.detach() if entry is None else entry.pattern.project(view, entry.density)

        for one, other in itertools.combinations(SPACE.allowed(place), 2):
            assert not torch.equal(holes(one), holes(other)), (name, SPACE.label(one), SPACE.label(other))
        for action, meant in enumerate(SPACE.meaning[place]):
            assert meant == -1 or torch.equal(holes(action), holes(meant))


@given(st.data())
def test_a_point_is_the_point_of_its_plan_and_of_its_parameters(data):
    point = tuple(data.draw(st.sampled_from(SPACE.allowed(place))) for place in range(len(SPACE.weights)))
    plan = SPACE.plan(point)
    plan.check(MODEL)
    assert SPACE.point(plan) == point == SPACE.point(Plan.from_yaml(plan.to_yaml()))
    assert SPACE.point_of(SPACE.params(point)) == point


def test_its_size_is_the_product_of_the_choices():
    assert SPACE.size == len([*itertools.product(*(SPACE.choices[name] for name in SPACE.weights))])


def test_a_plan_outside_is_refused_with_all_that_is_wrong():
    with pytest.raises(ValueError, match=r"(?s)0\.weight: not a weight.*1\.weight: 16x1 at density 0\.5 is not among"):
        SPACE.point({"0.weight": ("4x1", 0.5), "1.weight": ("16x1", 0.5)})
    with pytest.raises(ValueError, match=r"4\.weight: patterns4of8 at density 0\.25 is not among dense"):
        SPACE.point({"4.weight": ("patterns4of8", 0.25)})


def test_an_action_that_is_not_allowed_is_named():
    action = SPACE.actions.index(Entry("patterns4of8", 0.25))
    with pytest.raises(ValueError, match=r"6\.weight: patterns4of8 at density 0\.25 is not allowed"):
        SPACE.plan((0, 0, 0, action))


def test_patterns_that_compete_across_layers_are_refused():
    with pytest.raises(ValueError, match="weight by weight"):
        Space.of(MODEL, Affine.of(MODEL), ("4x1@network",), (0.5,))


def test_a_space_without_a_choice_is_refused():
    with pytest.raises(ValueError, match="no weight has a choice"):
        Space.of(MODEL, Affine.of(MODEL), ("4x1",), (1.0,))


def test_it_may_be_sent_to_other_processes_and_is_named_by_what_it_allows():
    assert pickle.loads(pickle.dumps(SPACE)) == SPACE
    other = Space.of(MODEL, Affine.of(MODEL), ("4x1",), (0.5,))
    assert SPACE.fingerprint != other.fingerprint
