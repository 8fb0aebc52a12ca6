"""The law finds a law again, says how well, and keeps quiet where it knows too little."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from monstera.search import CostTable, CostTableError
from monstera.search.costs.law import fit_law, rank_correlation, rest_bound_ms
from monstera.search.costs.price import expected_price, price_of
from monstera.sparsity import Entry, pattern
from search.costs.made import MACHINE, lawful_ms, lawful_table, subject

SUBJECTS = [subject(width) for width in (8, 16, 24, 32, 48)]


@pytest.fixture(scope="module")
def law():
    return fit_law(lawful_table(SUBJECTS), 1)


def test_it_finds_the_law_that_times_follow(law):
    assert law.quality.mape < 0.1
    assert law.quality.rank_correlation > 0.98
    for signature in subject(40).signatures.values():
        for entry in (None, Entry("4x1", 0.3), Entry("unstructured", 0.2), Entry("2:4")):
            assert law.ms(signature, entry) == pytest.approx(lawful_ms(signature, entry), rel=0.2)


def test_it_says_that_noise_is_no_law():
    table = lawful_table(SUBJECTS)
    rng = np.random.default_rng(0)
    for key, record in table.layers.items():
        noisy = tuple(
            type(p)(p.pattern, p.density, p.ms * float(rng.uniform(0.1, 10)), p.macs, p.bytes, p.price)
            for p in record.points
        )
        table = CostTable(MACHINE, {**table.layers, key: type(record)(record.signature, noisy)}, table.rests)
    assert fit_law(table, 1).quality.mape > 0.4


def test_it_needs_enough_layers_and_times():
    with pytest.raises(CostTableError, match="at least"):
        fit_law(CostTable(MACHINE), 1)
    with pytest.raises(CostTableError, match="at least"):
        fit_law(lawful_table(SUBJECTS, patterns=()), 1)
    with pytest.raises(CostTableError, match="3 layers"):
        fit_law(lawful_table(SUBJECTS[:1], patterns=("4x1", "8x1", "unstructured", "8x4")), 1)


def test_times_on_other_threads_say_nothing(law):
    table = lawful_table(SUBJECTS)
    for count in (2, 3):
        others = lawful_table([subject(width, threads=count) for width in (8, 16, 24, 32)])
        slow = {
            key: replace(record, points=tuple(replace(p, ms=50 * p.ms) for p in record.points))
            for key, record in others.layers.items()
        }
        rests = {name: replace(rest, ms=50 * rest.ms) for name, rest in others.rests.items()}
        table = table.joined(CostTable(MACHINE, slow, rests))
    assert fit_law(table, 1) == law
    (signature, *_) = subject(40).signatures.values()
    assert fit_law(table, 2).ms(signature) > 20 * law.ms(signature)
    assert fit_law(table, 2).rest_factor == pytest.approx(50 * law.rest_factor)
    with pytest.raises(CostTableError, match="0 times of 0 layers with threads=4"):
        fit_law(table, 4)


def test_what_is_no_layer_is_known_by_its_bytes(law):
    # The rest of each network of the table takes 0.01 ms for 4000 bytes.
    assert law.rest_factor * rest_bound_ms(4000, 0) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 1, 2], [5, 5, 9], 1.0),
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.8),
        ([1, 1, 1], [1, 2, 3], 1.0),
    ],
)
def test_rank_correlation_is_spearmans(a, b, expected):
    assert rank_correlation(np.array(a), np.array(b)) == pytest.approx(expected)


def test_blocks_are_cheaper_than_single_weights_and_holes_than_none():
    signature = subject(32).signatures["2.weight"]
    dense, blocks, single = (
        expected_price(signature, p, d, "avx512")[0]
        for p, d in ((None, 1.0), (pattern("4x1"), 0.25), (pattern("unstructured"), 0.25))
    )
    assert blocks < single < dense


def test_the_price_is_that_of_the_cheapest_blocks():
    from monstera.compiler.price import spmm_price
    from monstera.compiler.targets import TARGETS

    signature, target = subject(16).signatures["2.weight"], TARGETS["avx512"]
    alive = np.ones((1, 16, 16), bool)
    price = spmm_price(9, target)
    wanted = (
        min(16 / size * float(price.of(size, np.array([16]))[0]) + price.call for size in target.tiles) * price.flop
    )
    assert price_of(alive, signature, target)[0] == pytest.approx(wanted)
