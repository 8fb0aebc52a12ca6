"""Packing: any mask packs, nothing is lost, good masks carry no zeros and are cut along their blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import monstera as ms
from monstera.compiler.lowering.choice import Candidate, spmm_candidates, spmv_candidates
from monstera.compiler.packing import Blocks, pack, unpack
from monstera.compiler.targets import TARGETS

AVX512 = TARGETS["avx512"]
targets = st.sampled_from(sorted(TARGETS.values(), key=lambda t: t.name))


def _matrix(rng: np.random.Generator, rows: int, columns: int, block: int, density: float) -> np.ndarray:
    matrix = rng.standard_normal((rows, columns)).astype(np.float32)
    alive = rng.random((-(-rows // block), columns)) < density
    return matrix * np.repeat(alive, block, 0)[:rows] + np.float32(0)  # no negative zeros: a hole is a plain zero


def _pruned(pattern: str, density: float, shape: tuple[int, ...]) -> np.ndarray:
    """Random weights under a pattern, as the matrix that the kernels see."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    kept = ms.pattern(pattern).project(weight, density)
    return kept.reshape(len(kept), -1).numpy()


def _blocks(candidate: Candidate, matrix: np.ndarray) -> list[Blocks]:
    return [pack(matrix, matrix == 0, part.rows) for part in candidate.parts]


def _shape(candidate: Candidate) -> dict[int, int]:
    """Blocks of each size."""
    return {part.size: len(part.rows) for part in candidate.parts}


def _padding(candidate: Candidate, matrix: np.ndarray) -> int:
    """Zeros that the blocks carry."""
    return sum(b.stored for b in _blocks(candidate, matrix)) - np.count_nonzero(matrix)


@given(
    groups=st.sampled_from([1, 2, 3]),
    per_group=st.integers(1, 23),
    columns=st.integers(1, 70),
    block=st.sampled_from([1, 3, 4, 8]),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    target=targets,
    shuffled=st.booleans(),
    seed=st.integers(0, 999),
)
def test_unpacking_gives_the_packed_weights_bit_by_bit_whatever_the_candidate(
    groups, per_group, columns, block, density, target, shuffled, seed
):
    rng = np.random.default_rng(seed)
    matrix = _matrix(rng, groups * per_group, columns, block, density)
    if shuffled:
        matrix = matrix[rng.permutation(len(matrix))]
    holes = matrix == 0
    for candidate in spmm_candidates(holes, groups, 9, target) + spmv_candidates(holes, groups, 1, target):
        blocks = _blocks(candidate, matrix)
        assert unpack(blocks, matrix.shape).tobytes() == matrix.tobytes()
        assert sorted(np.concatenate([b.row.reshape(-1) for b in blocks])) == list(range(len(matrix)))
        for part in candidate.parts:
            assert (np.ptp(part.rows // per_group, axis=1) == 0).all(), "a block straddles convolution groups"


def test_equal_column_lists_are_stored_once():
    matrix = np.ones((16, 9), np.float32)
    blocks = pack(matrix, matrix == 0, np.arange(16).reshape(4, 4))
    assert blocks.columns.tolist() == list(range(9))
    assert blocks.start.tolist() == [0, 0, 0, 0]


def test_dense_weights_lie_in_large_blocks_as_they_stand():
    (best, *_) = spmm_candidates(np.zeros((64, 576), bool), 1, 49, AVX512)
    assert (best.order, len(best.parts)) == ("natural", 1)
    assert best.parts[0].size >= 4


@pytest.mark.parametrize("pattern", ["4x1", "8x1", "16x1", "8x4"])
def test_block_punched_masks_are_cut_along_their_blocks_and_carry_no_zero(pattern):
    matrix = _pruned(pattern, 0.1, (64, 64, 3, 3))
    (best, *_) = spmm_candidates(matrix == 0, 1, 49, AVX512)
    assert (best.order, _padding(best, matrix)) == ("natural", 0)
    assert min(_shape(best)) >= 4


def test_pruned_filters_leave_rows_that_cost_nothing():
    matrix = _pruned("filter", 0.25, (64, 32, 3, 3))
    (best, *_) = spmm_candidates(matrix == 0, 1, 49, AVX512)
    assert _padding(best, matrix) == 0, "dead filters, scattered among the living, share blocks with each other only"
    assert sum(len(p.rows) * p.size for p in best.parts if p.size >= 4) >= 60


def test_pruned_columns_leave_blocks_that_store_no_zero():
    matrix = _pruned("column", 0.25, (64, 32, 3, 3))
    (best, *_) = spmm_candidates(matrix == 0, 1, 49, AVX512)
    assert (best.order, _padding(best, matrix)) == ("natural", 0)


def test_two_of_four_is_cut_in_pairs_of_rows_that_share_three_of_four_columns_at_most():
    matrix = _pruned("2:4", 0.5, (64, 64, 1, 1))
    (best, *_) = spmm_candidates(matrix == 0, 1, 49, AVX512)
    assert best.order == "clustered"
    assert _shape(best) == {2: 32}
    stored = np.count_nonzero(matrix) + _padding(best, matrix)
    assert stored < 0.75 * matrix.size, "two random rows of 2:4 keep three of four columns between them"


def test_scattered_weights_stay_single_rows_without_padding():
    matrix = _pruned("unstructured", 0.1, (64, 128, 3, 3))
    (best, *_) = spmm_candidates(matrix == 0, 1, 49, AVX512)
    assert (_shape(best), _padding(best, matrix)) == ({1: 64}, 0)


def test_a_mask_whose_rows_differ_in_kind_is_cut_in_blocks_of_several_sizes():
    rng = np.random.default_rng(0)
    matrix = np.concatenate([_matrix(rng, 64, 576, 4, 0.1), _matrix(rng, 64, 576, 1, 0.1)])
    (best, *_) = spmm_candidates(matrix == 0, 1, 49, AVX512)
    assert (_shape(best), _padding(best, matrix)) == ({4: 16, 1: 64}, 0)


def test_dense_vector_products_stream_sixteen_rows_at_a_time():
    (best, *_) = spmv_candidates(np.zeros((1000, 512), bool), 1, 1, AVX512)
    assert _shape(best) == {16: 62, 8: 1}
    assert all(part.stretch for part in best.parts), "neighbouring rows need no scattered stores"


def test_blocks_of_sixteen_rows_stay_whole_in_vector_products():
    matrix = _pruned("16x1", 0.1, (256, 512))
    (best, *_) = spmv_candidates(matrix == 0, 1, 1, AVX512)
    assert (best.order, _shape(best), _padding(best, matrix)) == ("natural", {16: 16}, 0)


@given(columns=st.integers(1, 200), seed=st.integers(0, 99), target=targets)
def test_the_first_candidate_is_the_plainest_of_those_within_two_percent_of_the_cheapest(columns, seed, target):
    holes = _matrix(np.random.default_rng(seed), 24, columns, 2, 0.3) == 0
    best, *rest = spmm_candidates(holes, 1, 20, target)
    assert all(0.98 * best.flop <= other.flop for other in rest)
    plainer = [c for c in rest if c.order == "natural" and len(c.parts) <= len(best.parts)]
    assert all(best.flop <= other.flop for other in plainer)


def test_no_candidate_is_there_twice():
    rng = np.random.default_rng(0)
    matrix = np.concatenate([_matrix(rng, 16, 100, block, 0.2) for block in (1, 2, 4)])
    cuts = [[(p.size, p.rows.tobytes()) for p in c.parts] for c in spmm_candidates(matrix == 0, 1, 49, AVX512)]
    assert len(cuts) > 4
    assert all(cuts.count(cut) == 1 for cut in cuts)


def test_a_tuner_may_take_neighbours_in_blocks_of_any_size_however_dear():
    holes = _matrix(np.random.default_rng(0), 64, 200, 1, 0.1) == 0
    candidates = spmm_candidates(holes, 1, 49, AVX512)
    for size in (2, 4, 8):
        (plain,) = (c for c in candidates if (c.order, c.sizes) == ("natural", (size,)))
        assert plain.parts[0].rows.reshape(-1).tolist() == list(range(64))
        assert plain.flop > candidates[0].flop


def test_a_candidate_is_known_by_its_order_and_sizes():
    for rows in (12, 13, 64):
        holes = _matrix(np.random.default_rng(0), rows, 100, 2, 0.2) == 0
        candidates = spmm_candidates(holes, 1, 49, AVX512)
        assert len({(c.order, c.sizes) for c in candidates}) == len(candidates)


def test_each_part_is_priced_and_a_candidate_is_their_sum():
    holes = _matrix(np.random.default_rng(0), 36, 100, 4, 0.2) == 0
    for candidate in spmm_candidates(holes, 1, 49, AVX512):
        assert candidate.flop == sum(p.flop for p in candidate.parts)
        assert all(p.flop >= 2 * 16 * 49 * (~holes[p.rows]).sum() for p in candidate.parts), "faster than the peak"
