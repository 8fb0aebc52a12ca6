"""Graphs of schemes and the Weisfeiler-Lehman kernel: invariance, definiteness, the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monstera.search.npas import LayerChoice, Scheme, SchemeSpace, Stage
from monstera.search.npas.weisfeiler_lehman import LabelledGraph, kernels, scheme_graph, subtree_counts


@st.composite
def graphs(draw: st.DrawFn) -> LabelledGraph:
    nodes = draw(st.integers(1, 7))
    labels = tuple(draw(st.lists(st.sampled_from("abc"), min_size=nodes, max_size=nodes)))
    pairs = [(a, b) for a in range(nodes) for b in range(a + 1, nodes)]
    return LabelledGraph(labels, tuple(draw(st.lists(st.sampled_from(pairs), max_size=10)) if pairs else ()))


def _space() -> SchemeSpace:
    stages = [Stage(f"s{n}", 16, 16, "3x3") for n in range(4)]
    return SchemeSpace(stages, [(0, 1), (2, 3)])


def _scheme(*filters: str) -> Scheme:
    return Scheme(tuple(map(LayerChoice, filters)))


@given(graphs(), st.randoms(use_true_random=False), st.integers(0, 4))
def test_numbering_the_nodes_anew_changes_nothing(graph: LabelledGraph, random, depth: int) -> None:
    order = list(range(len(graph.labels)))
    random.shuffle(order)
    labels = [""] * len(order)
    for old, new in enumerate(order):
        labels[new] = graph.labels[old]
    again = LabelledGraph(tuple(labels), tuple((order[a], order[b]) for a, b in graph.edges))
    first, second = subtree_counts(graph, depth), subtree_counts(again, depth)
    assert first == second
    assert kernels([first], [second], [1.0] * (depth + 1)) == pytest.approx(1)


@given(st.lists(graphs(), min_size=1, max_size=6), st.lists(st.floats(0, 5), min_size=2, max_size=2))
def test_the_kernel_is_symmetric_positive_semidefinite_and_1_of_a_graph_with_itself(
    some: list[LabelledGraph], deeper: list[float]
) -> None:
    counts = [subtree_counts(graph, 2) for graph in some]
    for kernel in kernels(counts, counts, [1.0, *deeper]):
        assert kernel == pytest.approx(kernel.T)
        assert kernel.diagonal() == pytest.approx(np.ones(len(some)))
        assert kernel.min() >= 0
        assert np.linalg.eigvalsh(kernel).min() > -1e-9


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_kernels_of_schemes_are_positive_semidefinite(seed: int) -> None:
    rng, space = np.random.default_rng(seed), _space()
    counts = [subtree_counts(scheme_graph(space, space.sample(rng)), 4) for _ in range(8)]
    for kernel in kernels(counts, counts, [1.0] * 5):
        assert np.linalg.eigvalsh(kernel).min() > -1e-9


@given(st.lists(graphs(), min_size=2, max_size=4))
def test_the_kernel_is_the_sum_over_all_labels(some: list[LabelledGraph]) -> None:
    weights = [1.0, 0.5, 2.0]
    counts = [subtree_counts(graph, 2) for graph in some]
    made = kernels(counts, counts, weights)

    def plain(a, b, depth: int) -> float:
        return sum(weights[h] * sum(a[h][label] * b[h][label] for label in a[h]) for h in range(depth + 1))

    for depth in range(3):
        for i, a in enumerate(counts):
            for j, b in enumerate(counts):
                norm = (plain(a, a, depth) * plain(b, b, depth)) ** 0.5
                assert made[depth, i, j] == pytest.approx(plain(a, b, depth) / norm)


def test_direction_and_place_are_seen_below_the_surface_only() -> None:
    chain, turned = LabelledGraph(("a", "b"), ((0, 1),)), LabelledGraph(("a", "b"), ((1, 0),))
    first, second = subtree_counts(chain, 1), subtree_counts(turned, 1)
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_a_skipped_layer_has_no_node_and_is_bypassed() -> None:
    space = SchemeSpace([Stage(f"s{n}", 8, 8, "1x1") for n in range(3)])
    graph = scheme_graph(space, _scheme("1x1", "skip", "1x1"))
    assert graph.labels == ("input", "1x1|dense|1|8-8/1", "1x1|dense|1|8-8/1", "output")
    assert graph.edges == ((0, 1), (1, 2), (2, 3))
    everything = scheme_graph(space, _scheme("skip", "skip", "skip"))
    assert everything.labels == ("input", "output")
    assert everything.edges == ((0, 1),)


def test_schemes_that_skip_either_of_two_equal_layers_are_the_same_network() -> None:
    space = SchemeSpace([Stage(f"s{n}", 8, 8, "1x1") for n in range(2)])
    one, other = scheme_graph(space, _scheme("skip", "1x1")), scheme_graph(space, _scheme("1x1", "skip"))
    assert subtree_counts(one, 4) == subtree_counts(other, 4)


def test_shortcuts_join_at_additions() -> None:
    graph = scheme_graph(_space(), _scheme("3x3", "1x1", "skip", "1x1"))
    names = [label.split("|")[0] for label in graph.labels]
    assert names == ["input", "3x3", "1x1", "add", "1x1", "add", "output"]
    assert graph.edges == ((0, 1), (0, 3), (1, 2), (2, 3), (3, 4), (3, 5), (4, 5), (5, 6))


def test_a_shortcut_around_nothing_is_left_out() -> None:
    graph = scheme_graph(_space(), _scheme("skip", "skip", "3x3", "3x3"))
    assert [label.split("|")[0] for label in graph.labels] == ["input", "3x3", "3x3", "add", "output"]


def test_near_densities_are_more_alike_than_far_ones() -> None:
    space = SchemeSpace([Stage("s", 16, 16, "1x1", patterns=["8x4"])])
    half, near, far = (LayerChoice("1x1", "8x4", density) for density in (0.5, 0.4, 0.1))
    counts = [subtree_counts(scheme_graph(space, Scheme((choice,))), 0) for choice in (half, near, far)]
    (row,) = kernels(counts[:1], counts, [1.0])[0]
    assert row[0] > row[1] > row[2]


def _names() -> str:
    """All that must not depend on Python's own hashes: of a space, a sample, and the labels of its graph."""
    space = _space()
    scheme = space.sample(np.random.default_rng(5))
    labels = [sorted(counts.items()) for counts in subtree_counts(scheme_graph(space, scheme), 3)]
    return f"{space.digest} {scheme.digest} {labels}"


def test_digests_samples_and_labels_are_the_same_in_every_process() -> None:
    here = Path(__file__).resolve()
    paths = os.pathsep.join([str(here.parents[2] / "src"), str(here.parents[1])])
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    printed = subprocess.run(
        [sys.executable, "-c", "from search.test_npas_kernel import _names; print(_names())"],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.strip() == _names()


def test_what_is_no_graph_and_no_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="nodes that are not there"):
        LabelledGraph(("a",), ((0, 1),))
    counts = [subtree_counts(LabelledGraph(("a",), ()), 1)]
    with pytest.raises(ValueError, match="counts of 1 depths"):
        kernels(counts, counts, [1.0])
    with pytest.raises(ValueError, match="positive weight"):
        kernels(counts, counts, [0.0, 1.0])
