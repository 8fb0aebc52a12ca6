"""Schemes of NPAS: canonical choices, unidirectional replacement, spaces that say what they refuse."""

from __future__ import annotations

import json
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from monstera.search.npas import (
    DENSITIES,
    FILTERS,
    LayerChoice,
    Scheme,
    SchemeError,
    SchemeSpace,
    Stage,
    replacements,
)
from monstera.search.npas.candidate import replacement
from monstera.search.npas.space import smallest_schemes


def _space() -> SchemeSpace:
    stages = [
        Stage("first", 16, 32, "3x3", 2),
        Stage("second", 32, 32, "1x1+3x3dw+1x1", hidden=64),
        Stage("third", 32, 32, "1x1", patterns={"1x1": ["8x4"]}, densities=[0.5, 0.25]),
    ]
    return SchemeSpace(stages, [(1, 1)])


choices = st.builds(
    LayerChoice,
    st.sampled_from(FILTERS),
    st.sampled_from(["filter", "8x4", "8X4", "patterns4of8"]),
    st.sampled_from(DENSITIES),
)


def test_choices_that_make_the_same_layer_are_equal() -> None:
    assert LayerChoice("skip", "8x4", 0.5) == LayerChoice("skip", "filter", 0.1) == LayerChoice("skip")
    assert LayerChoice("1x1", "8x4", 1) == LayerChoice("1x1", "filter", 1.0) == LayerChoice("1x1")
    assert LayerChoice("3x3", " 1xALL ", 0.5) == LayerChoice("3x3", "1xall", 0.5)
    assert len({LayerChoice("1x1", pattern, 1) for pattern in ("8x4", "filter", None)}) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("5x5",), "unknown filter type"),
        (("1x1", None, 0.5), "needs a pattern"),
        (("1x1", "9y9", 0.5), "unknown pattern"),
        (("1x1", "8x4", 0.0), "density is the kept fraction"),
        (("1x1", "2:4", 0.25), "keeps exactly 0.5"),
    ],
)
def test_a_choice_that_is_none_is_refused(arguments: tuple, reason: str) -> None:
    with pytest.raises(SchemeError, match=reason):
        LayerChoice(*arguments)


@given(st.lists(choices, min_size=1, max_size=6))
def test_schemes_survive_json_and_keep_their_digest(layers: list[LayerChoice]) -> None:
    scheme = Scheme(tuple(layers))
    again = Scheme.from_json(json.loads(json.dumps(scheme.to_json())))
    assert again == scheme
    assert hash(again) == hash(scheme)
    assert again.digest == scheme.digest
    assert pickle.loads(pickle.dumps(scheme)) == scheme


@given(st.lists(choices, min_size=2, max_size=2))
def test_different_schemes_have_different_digests(pair: list[LayerChoice]) -> None:
    first, second = (Scheme((choice,)) for choice in pair)
    assert (first == second) == (first.digest == second.digest)
    assert (first == second) + (pair[0] < pair[1]) + (pair[1] < pair[0]) == 1


def test_layers_are_replaced_by_what_has_less_capacity_only() -> None:
    assert replacements("3x3") == FILTERS
    assert replacements("1x1") == ("1x1", "skip")
    for base in FILTERS[:-1]:
        assert all(replacements(other)[0] == other for other in replacements(base)[:-1])
    with pytest.raises(SchemeError, match="3x3"):
        Stage("a", 8, 8, "1x1", filters=["3x3"])


def test_skip_needs_equal_shapes() -> None:
    assert "skip" in Stage("a", 8, 8, "1x1").filters
    assert "skip" not in Stage("a", 8, 16, "1x1").filters
    assert "skip" not in Stage("a", 8, 8, "1x1", 2).filters
    with pytest.raises(SchemeError, match="skip needs equal shapes"):
        Stage("a", 8, 16, "1x1", filters=["1x1", "skip"])


def test_kernel_patterns_are_for_dense_3x3_only() -> None:
    stage = Stage("a", 16, 16, "3x3")
    with_kernels = {choice.filter for choice in stage.actions if choice.pattern == "patterns4of8"}
    assert with_kernels == {"3x3"}
    with pytest.raises(SchemeError, match="cannot have patterns4of8"):
        Stage("a", 16, 16, "3x3", patterns={"1x1": ["patterns4of8"]})


def test_of_85_raw_actions_of_a_layer_59_are_different_and_valid() -> None:
    # 4 filters x 3 patterns x 6 densities below 1, dense once each, skip; no kernel patterns for three of the filters.
    assert len(Stage("a", 16, 16, "3x3").actions) == 4 * 3 * 6 + 4 + 1 - 3 * 6


def test_a_pattern_with_one_density_of_its_own_has_that_alone() -> None:
    stage = Stage("a", 16, 16, "1x1", patterns=["2:4"], filters=["1x1"])
    assert [choice.density for choice in stage.actions] == [1.0, 0.5]


def test_the_middle_of_a_cascade_is_pruned_in_its_own_size() -> None:
    stage = Stage("a", 16, 32, "1x1+3x3dw+1x1", hidden=96)
    assert stage.pruned_shapes("1x1+3x3dw+1x1") == ((96, 16, 1, 1), (32, 96, 1, 1))


def test_a_space_counts_lists_and_checks_its_schemes() -> None:
    space = _space()
    assert space.size == np.prod([len(actions) for actions in space.actions])
    assert [str(choice) for choice in space.actions[2]] == ["1x1", "1x1 8x4 at 0.5", "1x1 8x4 at 0.25", "skip"]
    assert space.refusals(space.base) == []
    assert pickle.loads(pickle.dumps(space)) == space


def test_a_scheme_of_another_space_is_refused_with_every_reason() -> None:
    wrong = Scheme((LayerChoice("skip"), LayerChoice("1x1", "4x1", 0.5), LayerChoice("1x1", "8x4", 0.1)))
    with pytest.raises(SchemeError) as error:
        _space().check(wrong)
    assert len(error.value.problems) == 3
    assert [problem.split(":")[0] for problem in error.value.problems] == ["first", "second", "third"]
    assert _space().refusals(Scheme(wrong.choices[:2])) == ["it has 2 layers, the space 3"]


def test_samples_are_uniform() -> None:
    space = SchemeSpace([Stage("a", 8, 8, "1x1", patterns=["8x4"], densities=[0.5])] * 1)
    rng = np.random.default_rng(0)
    counts = Counter(space.sample(rng) for _ in range(3000))
    assert len(counts) == space.size == 3
    assert max(abs(count - 1000) for count in counts.values()) < 100


@given(st.integers(0, 10**6))
def test_every_sample_is_valid(seed: int) -> None:
    space = _space()
    assert space.refusals(space.sample(np.random.default_rng(seed))) == []


def test_the_smallest_schemes_have_no_more_weights_than_any_other_choice() -> None:
    wide = Stage("a", 16, 32, "3x3", 2, hidden=48, patterns=["8x4", "filter"], densities=[0.5, 0.25])
    deep = Stage("b", 32, 32, "1x1+3x3dw+1x1", hidden=64, filters=["1x1+3x3dw+1x1"], patterns=["8x4"], densities=[0.5])
    schemes = smallest_schemes(SchemeSpace([wide, deep]))
    assert {str(scheme) for scheme in schemes} == {
        "1x1 8x4 at 0.25, 1x1+3x3dw+1x1 8x4 at 0.5",
        "1x1 filter at 0.25, 1x1+3x3dw+1x1 8x4 at 0.5",
    }
    for stage in (wide, deep):
        macs = {choice: _macs(stage, choice) for choice in stage.actions}
        assert {choice: stage.work(choice) for choice in stage.actions} == pytest.approx(macs)


def _macs(stage: Stage, choice: LayerChoice) -> float:
    """Counted in a layer with the input of one 4x4 picture, for each place of the output."""
    dense = nn.Conv2d(stage.in_channels, stage.out_channels, 3, stage.stride, padding=1, bias=False)
    layer = dense if choice.filter == "3x3" else replacement(stage, choice.filter, False)
    counted, x = 0.0, torch.zeros(1, stage.in_channels, 4, 4)
    for part in layer if isinstance(layer, nn.Sequential) else [layer]:
        x = part(x)
        if isinstance(part, nn.Conv2d):
            counted += (choice.density if part.groups == 1 else 1) * part.weight[0].numel() * x.numel()
    return counted / x[0, 0].numel()


def test_a_space_says_all_that_is_wrong_with_it() -> None:
    stage = Stage("a", 8, 8, "1x1")
    with pytest.raises(SchemeError) as error:
        SchemeSpace([stage, stage], [(0, 2), (1, 1), (0, 1)])
    assert len(error.value.problems) == 3
    with pytest.raises(SchemeError, match="at least one stage"):
        SchemeSpace([])
