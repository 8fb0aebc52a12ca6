"""Row order: rows that share columns meet wherever they stand, within their convolution group, and pay for it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import monstera as ms
from monstera.compiler import reorder
from monstera.compiler.lowering.choice import spmm_candidates, spmv_candidates
from monstera.compiler.price import spmm_price, spmv_price
from monstera.compiler.reorder import clustered, cut, natural
from monstera.compiler.targets import TARGETS

AVX512 = TARGETS["avx512"]
PRICE = spmm_price(49, AVX512)
SIZES = (8, 4, 2, 1)


def _holes(seed: int, rows: int, columns: int, block: int, density: float) -> np.ndarray:
    alive = np.random.default_rng(seed).random((-(-rows // block), columns)) < density
    return ~np.repeat(alive, block, 0)[:rows]


def _stored(blocks: list[tuple[int, np.ndarray, np.ndarray]]) -> int:
    return sum(size * int(lengths.sum()) for size, _, lengths in blocks)


def _paid(blocks: list[tuple[int, np.ndarray, np.ndarray]]) -> float:
    return sum(float(PRICE.of(size, lengths).sum()) for size, _, lengths in blocks)


masks = st.builds(
    _holes,
    st.integers(0, 999),
    st.sampled_from([12, 30, 48]),
    st.sampled_from([1, 40, 64, 65, 200]),
    st.sampled_from([1, 2, 4, 5]),
    st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0]),
)


@given(holes=masks, groups=st.sampled_from([1, 2, 3, 6]), order=st.sampled_from([natural, clustered]))
def test_blocks_cover_every_row_once_within_its_group_and_count_the_columns_that_survive(holes, groups, order):
    arguments = (PRICE,) if order is clustered else ()
    blocks = cut(order(holes, groups, 8, *arguments), PRICE, SIZES)
    rows = np.concatenate([rows.reshape(-1) for _, rows, _ in blocks])
    assert sorted(rows) == list(range(len(holes)))
    for size, members, lengths in blocks:
        assert members.shape == (len(lengths), size)
        assert (np.ptp(members // (len(holes) // groups), axis=1) == 0).all()
        assert (np.diff(members, axis=1) > 0).all()
        assert (np.diff(members[:, 0]) > 0).all()
        assert lengths.tolist() == [int((~holes[block]).any(0).sum()) for block in members]


@pytest.mark.parametrize("block", [2, 4, 8])
@pytest.mark.parametrize("groups", [1, 2])
def test_blocks_whose_rows_were_shuffled_are_found_again_without_a_padding_zero(block, groups):
    rng = np.random.default_rng(block)
    holes = _holes(0, 96, 300, block, 0.2)
    shuffled = holes[np.concatenate([g * (96 // groups) + rng.permutation(96 // groups) for g in range(groups)])]
    blocks = cut(clustered(shuffled, groups, 8, PRICE), PRICE, (min(block, 4), 1))
    assert {size for size, _, _ in blocks} == {min(block, 4)}
    assert _stored(blocks) == (~holes).sum()


@given(seed=st.integers(0, 999), density=st.sampled_from([0.05, 0.25, 0.6]))
def test_shuffling_the_rows_of_a_block_mask_does_not_change_what_is_stored(seed, density):
    holes = _holes(seed, 64, 120, 4, density)
    shuffled = holes[np.random.default_rng(seed).permutation(64)]
    stored = [
        sum(part.size * int((~mask[part.rows]).any(1).sum()) for part in spmm_candidates(mask, 1, 49, AVX512)[0].parts)
        for mask in (holes, shuffled)
    ]
    assert stored[0] == stored[1] == (~holes).sum()


@given(holes=masks, groups=st.sampled_from([1, 3]))
def test_the_choice_never_costs_more_than_single_rows_and_takes_the_order_that_pays(holes, groups):
    for candidates in (spmm_candidates(holes, groups, 49, AVX512), spmv_candidates(holes, groups, 1, AVX512)):
        cheapest = {
            o: min((c.flop for c in candidates if c.order == o), default=np.inf) for o in ("natural", "clustered")
        }
        assert candidates[0].flop <= cheapest["natural"] / 0.98
        assert (candidates[0].order == "clustered") <= (cheapest["clustered"] < cheapest["natural"])


def test_blocks_that_start_at_odd_rows_are_found():
    holes = np.concatenate([_holes(1, 3, 200, 1, 0.2), _holes(0, 32, 200, 4, 0.2), _holes(2, 5, 200, 1, 0.2)])
    blocks = cut(clustered(holes, 1, 8, PRICE), PRICE, SIZES)
    whole = next(rows for size, rows, _ in blocks if size == 4)
    assert whole.tolist() == [list(range(first, first + 4)) for first in range(3, 35, 4)]


def test_rows_that_nearly_share_their_columns_meet_too():
    rng = np.random.default_rng(0)
    holes = _holes(0, 64, 400, 4, 0.2) | (rng.random((64, 400)) < 0.1)  # each row lost a tenth more
    order = rng.permutation(64)
    blocks = cut(clustered(holes[order], 1, 4, PRICE), PRICE, (4, 1))
    ((size, rows, _),) = blocks
    assert size == 4
    assert (np.ptp(order[rows] // 4, axis=1) == 0).all()


def test_a_row_with_a_few_columns_more_stays_with_its_likes_and_the_block_pays_for_them():
    holes = np.ones((4, 100), bool)
    holes[:, :50] = False
    holes[3, 50:53] = False
    ((size, _, lengths),) = cut(clustered(holes, 1, 4, PRICE), PRICE, (4, 1))
    assert (size, lengths.tolist()) == (4, [53])


def test_empty_rows_meet_and_store_nothing():
    holes = _holes(0, 16, 80, 1, 0.5)
    holes[::2] = True
    blocks = cut(clustered(holes, 1, 8, PRICE), PRICE, SIZES)
    assert sum(rows.size for _, rows, lengths in blocks for rows in rows[lengths == 0]) == 8


def test_the_cut_is_the_cheapest_of_all_cuts_of_the_forest():
    forest = natural(_holes(0, 8, 60, 2, 0.3), 1, 8)

    def cheapest(level: int, node: int) -> float:
        whole = float(PRICE.of(2**level, forest.lengths[level][node]))
        return whole if level == 0 else min(whole, sum(cheapest(level - 1, c) for c in forest.children[level][node]))

    assert _paid(cut(forest, PRICE, SIZES)) == pytest.approx(cheapest(3, 0))


@given(holes=masks)
def test_the_same_mask_gives_the_same_order(holes):
    first, second = (clustered(holes.copy(), 1, 8, PRICE) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first.rows, second.rows, strict=True))


def test_among_equal_savings_neighbours_are_joined():
    holes = ~np.eye(8, dtype=bool)  # no two rows share a column but the one added now
    holes = np.concatenate([holes, np.zeros((8, 40), bool)], 1)
    assert clustered(holes, 1, 2, PRICE).children[1].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_rows_that_all_prefer_one_partner_are_joined_all_the_same():
    alive = np.arange(2048) < 4 * np.arange(1, 513)[:, None]  # nested: the longest row shares most with everybody
    start = time.process_time()
    forest = clustered(~alive, 1, 2, PRICE)
    assert len(forest.rows[1]) == 256
    assert time.process_time() - start < 2


@pytest.mark.parametrize(("rows", "columns"), [(512, 4608), (2048, 512)])
def test_a_large_scattered_mask_is_ordered_in_a_fraction_of_a_second(rows, columns):
    holes = _holes(0, rows, columns, 1, 0.1)
    start = time.process_time()
    spmm_candidates(holes, 1, 13, AVX512)
    assert time.process_time() - start < 1.0  # a hundred milliseconds or less on an idle core


def test_a_sample_of_the_columns_is_enough_to_find_what_is_alike(monkeypatch):
    monkeypatch.setattr(reorder, "_MULTIPLICATIONS", 64 * 256**2)
    rng = np.random.default_rng(0)
    holes = _holes(0, 256, 4096, 4, 0.2) | (rng.random((256, 4096)) < 0.05)
    order = rng.permutation(256)
    whole = {size: rows for size, rows, _ in cut(clustered(holes[order], 1, 4, PRICE), PRICE, (4, 1))}[4]
    assert (np.ptp(order[whole] // 4, axis=1) == 0).sum() > 32, "half of the blocks from a 64th of the columns"


def test_more_rows_than_a_stretch_still_meet_their_duplicates(monkeypatch):
    monkeypatch.setattr(reorder, "_STRETCH", 16)
    holes = _holes(0, 128, 200, 4, 0.2)
    shuffled = holes[np.random.default_rng(0).permutation(128)]
    assert _stored(cut(clustered(shuffled, 1, 4, PRICE), PRICE, (4, 1))) == (~holes).sum()


@pytest.mark.parametrize("pattern", ["4x1", "16x1", "unstructured"])
@pytest.mark.parametrize("images", [1, 4, 7])
@pytest.mark.parametrize("activation", [None, nn.GELU(), nn.ReLU()])
def test_a_linear_layer_with_shuffled_rows_stores_them_where_they_belong(pattern, images, activation):
    torch.manual_seed(0)
    linear = nn.Linear(96, 83)
    ms.prune(linear, ms.Plan({"weight": (pattern, 0.2)}))
    with torch.no_grad():
        linear.weight.copy_(linear.weight[torch.randperm(83)])
    model = nn.Sequential(linear, *([activation] if activation else [])).eval()
    x = torch.randn(images, 96)
    engine = ms.compile(model, x)
    torch.testing.assert_close(engine(x), model(x).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_with_shuffled_rows_computes_the_same_and_stores_no_zero(groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 32, 3, padding=1, groups=groups).eval()
    ms.prune(conv, ms.Plan({"weight": ("4x1", 0.2)}))
    with torch.no_grad():
        shuffle = torch.cat([g * (32 // groups) + torch.randperm(32 // groups) for g in range(groups)])
        conv.weight.copy_(conv.weight[shuffle])
    x = torch.randn(2, 16, 11, 13)
    engine = ms.compile(conv, x)
    torch.testing.assert_close(engine(x), conv(x).detach(), rtol=1e-5, atol=1e-6)
    packed = [part for layer in engine.manifest.layers for part in layer.packing]
    assert [p.order for p in packed] == ["clustered"]
    assert sum(p.stored for p in packed) == int(conv.weight.count_nonzero())


def test_no_price_beats_the_peak():
    for price in (spmm_price(vectors, target) for vectors in (1, 4, 200) for target in TARGETS.values()):
        assert all(cost >= size for size, cost in price.column.items())
        assert price.bound(64, 1000, SIZES) > 1000


def test_products_beyond_the_cache_pay_for_the_bytes_they_stream():
    near, far = (spmv_price(1, weights, AVX512).column[16] for weights in (10**6, 10**7))
    assert far > 2 * near
