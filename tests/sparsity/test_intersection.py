"""Values constrained inside groups: scored by what they save, exact where both sides are, competing like the holes."""

from __future__ import annotations

import copy
import pickle
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from monstera.sparsity import (
    ALL,
    Block,
    BlockColumnRow,
    Intersection,
    KernelPattern,
    NOfM,
    PatternError,
    Plan,
    Quantize,
    Unify,
    kept_groups,
    pattern,
)
from sparsity.drawing import weights

BOTH = st.sampled_from(
    [
        "4x1&unify4x1",
        "4x2&unify2x1",
        "allx1&unify2x1",
        "4x1@network&unify2x1",
        "4x1@1:2&unify4x1",
        "4x1&unify2x1u0.9",
        "4x1&int4",
        "2:4&int3@layer",
        "unstructured&int8",
        "bcr4x4&int4",
        "filter@network&int2",
    ]
)
# Large enough that something of each family lives.
SHAPES = st.tuples(st.integers(4, 9), st.integers(4, 9), st.sampled_from([(), (3,), (2, 2)])).map(
    lambda sizes: (*sizes[:2], *sizes[2])
)


@settings(max_examples=30)
@given(BOTH, weights(SHAPES), st.floats(0.05, 1))
def test_a_projection_obeys_both_and_is_idempotent(name: str, weight: Tensor, density: float) -> None:
    both = pattern(name)
    assert isinstance(both, Intersection)
    asked = None if isinstance(both.scope, NOfM) else density
    projected = both.project(weight, asked)
    assert (projected.shape, projected.dtype) == (weight.shape, weight.dtype)
    assert both.holds(projected, asked)
    assert both.holes.holds(projected, asked)
    assert both.values.holds(projected)
    if both.exact or isinstance(both.values, Quantize):
        again = both.project(projected, asked)
        assert torch.equal(again, projected)


@settings(max_examples=40)
@given(
    weights(SHAPES),
    st.sampled_from([("4x1", "unify4x1"), ("4x2", "unify2x1"), ("4xall", "unify2x2")]),
    st.floats(0.1, 1),
)
def test_no_choice_of_groups_with_their_values_tied_is_nearer(
    weight: Tensor, names: tuple[str, str], density: float
) -> None:
    holes, values = (pattern(name) for name in names)
    both = Intersection(holes, values)
    assert both.exact
    weight = weight[:5, :4].double() if names[0] != "4x1" else weight[:5, :5].flatten(1)[:, :5].double()
    tied, groups = values.project(weight, 1.0), holes.groups(weight)
    count = holes.count(weight.shape)
    saved = (
        torch.zeros(count)
        .double()
        .index_add(0, groups.flatten(), (weight.square() - (weight - tied).square()).flatten())
    )
    best = max(sum(saved[list(kept)]) for kept in combinations(range(count), kept_groups(density, count)))
    distance = float((weight - both.project(weight, density)).square().sum())
    assert distance == pytest.approx(float(weight.square().sum() - best), abs=1e-9)


@settings(max_examples=20)
@given(st.one_of(BOTH.filter(lambda name: "bcr" not in name), st.just("unify4x1")), weights(SHAPES))
def test_groups_and_sums_are_those_of_the_holes(name: str, weight: Tensor) -> None:
    both = pattern(name)
    holes = both.holes if isinstance(both, Intersection) else Block(4, 1)
    assert torch.equal(both.groups(weight), holes.groups(weight))
    squares = weight.double().square()
    (sums,) = both.sums(squares)
    of = both.groups(weight).flatten()
    torch.testing.assert_close(sums.flatten(), torch.bincount(of, squares.flatten())[of])


def test_a_group_is_worth_what_it_saves_not_its_norm() -> None:
    weight = torch.tensor([[6.0, 3.5, 1.0], [0.0, -4.5, 1.0]])
    # Norms 36, 32.5 and 2; with one magnitude a block saves 2 * 3^2, 2 * 4^2 and 2.
    assert pattern("2x1&unify2x1").project(weight, 1 / 3).tolist() == [[0, 4, 0], [0, -4, 0]]
    assert pattern("2x1").project(weight, 1 / 3).tolist() == [[6, 0, 0], [0, 0, 0]]


def test_the_scale_is_that_of_the_survivors() -> None:
    # Levels 0.5 and 1.5 of the pair that lives; the other one would have asked for another scale.
    weight = torch.tensor([[1.5, 0.3], [0.5, 0.3]])
    assert pattern("2x1&int3@layer").project(weight, 0.5).tolist() == [[1.5, 0.0], [0.5, 0.0]]


def test_groups_of_a_whole_network_compete_by_what_they_save() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 8))
    with torch.no_grad():
        model[1].weight.mul_(0.01)
    plan = Plan(dict.fromkeys(("0.weight", "1.weight"), ("4x1@network&unify4x1", 0.5)))
    projected = plan.project(plan.weights(model))
    assert bool((projected["0.weight"].count_nonzero() > projected["1.weight"].count_nonzero()).item())
    with torch.no_grad():
        for name, weight in plan.weights(model).items():
            weight.copy_(projected[name])
    report = plan.verify(model)
    assert report.ok
    with torch.no_grad():
        model[0].weight[model[0].weight != 0] *= torch.rand(int(model[0].weight.count_nonzero())) + 0.5
    assert not plan.verify(model).ok, "holes alone are not enough"


@given(BOTH)
def test_a_name_stands_for_exactly_one_pattern(name: str) -> None:
    both = pattern(name)
    assert pattern(str(both)) == both
    assert pickle.loads(pickle.dumps(both)) == copy.deepcopy(both) == both
    assert "of what is left" in both.describe()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Intersection(Block(), Unify(4, 1)), "not made of whole blocks"),
        (lambda: Intersection(Block(4, 1), Unify(8, 1)), "not made of whole blocks"),
        (lambda: Intersection(Block(4, 1), Unify(ALL, 1)), "not made of whole blocks"),
        (lambda: Intersection(KernelPattern(), Unify(4, 1)), "not made of whole blocks"),
        (lambda: Intersection(BlockColumnRow(4, 4), Unify(4, 1)), "not made of whole blocks"),
        (lambda: Intersection(Unify(4, 1), Quantize(4)), "holes only"),
        (lambda: Intersection(Block(4, 1), Block(4, 1)), "constrains values"),  # pyright: ignore[reportArgumentType]
        (lambda: pattern("4x1&2:4"), "behind & stands"),
        (lambda: pattern("4x1&int4&int3"), "holes only"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        make()


def test_a_plan_of_values_survives_its_file() -> None:
    plan = Plan({"a": ("4x1&int4", 0.25), "b": ("unify4x1u0.9", 0.5), "c": ("int8",), "d": ("2:4&int4",)})
    assert dict(Plan.from_yaml(plan.to_yaml())) == dict(plan)
    assert plan["c"].density == 1
    assert plan.partway(0.5)["a"].density == 0.625
    assert plan.partway(0.5)["d"].density == 0.5
