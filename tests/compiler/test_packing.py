"""Packing: any mask packs, nothing is lost, good masks carry no zeros."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monstera.compiler.lowering.choice import spmm_rows, spmv_rows
from monstera.compiler.packing import block_lengths, pack, split_rows, unpack
from monstera.compiler.targets import TARGETS

AVX512 = TARGETS["avx512"]


def _matrix(rng: np.random.Generator, rows: int, columns: int, block: int, density: float) -> np.ndarray:
    matrix = rng.standard_normal((rows, columns)).astype(np.float32)
    alive = rng.random((-(-rows // block), columns)) < density
    return matrix * np.repeat(alive, block, 0)[:rows] + np.float32(0)  # no negative zeros: a hole is a plain zero


@given(
    rows=st.integers(1, 23),
    columns=st.integers(1, 30),
    block=st.sampled_from([1, 3, 4, 8]),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    sizes=st.sampled_from([(8, 4, 2, 1), (4, 2, 1), (16, 8, 4, 1), (1,)]),
    seed=st.integers(0, 999),
)
def test_unpacking_gives_the_packed_weights_bit_by_bit(rows, columns, block, density, sizes, seed):
    matrix = _matrix(np.random.default_rng(seed), rows, columns, block, density)
    holes = matrix == 0
    blocks = [pack(matrix, holes, r, size) for size, r in split_rows(holes, sizes, 1)]
    assert unpack(blocks, matrix.shape).tobytes() == np.where(holes, np.float32(0), matrix).tobytes()
    assert sorted(np.concatenate([b.row.reshape(-1) for b in blocks])) == list(range(rows))


def test_blocks_of_four_rows_that_share_their_columns_store_no_zero():
    matrix = _matrix(np.random.default_rng(0), 32, 100, 4, 0.1)
    ((size, rows),) = spmm_rows(matrix == 0, 1, 100, AVX512)
    assert size == 4
    assert pack(matrix, matrix == 0, rows, size).stored == np.count_nonzero(matrix)


def test_equal_column_lists_are_stored_once():
    matrix = np.ones((16, 9), np.float32)
    blocks = pack(matrix, matrix == 0, range(16), 4)
    assert blocks.columns.tolist() == list(range(9))
    assert blocks.start.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("block", "expected"), [(1, 1), (4, 4), (8, 8)])
def test_the_cost_model_finds_the_block_that_the_mask_was_made_with(block, expected):
    matrix = _matrix(np.random.default_rng(1), 64, 400, block, 0.1)
    assert spmm_rows(matrix == 0, 1, 100, AVX512)[0][0] == expected


def test_dense_vectors_products_stream_sixteen_rows_at_a_time():
    assert [size for size, _ in spmv_rows(np.zeros((40, 100), bool), 1)] == [16, 8]


@given(groups=st.sampled_from([1, 2, 3, 5]), per_group=st.integers(1, 11))
def test_blocks_never_straddle_convolution_groups(groups, per_group):
    holes = np.zeros((groups * per_group, 4), bool)
    for size, rows in split_rows(holes, (8, 4, 2, 1), groups):
        for block in np.array(rows).reshape(-1, size):
            assert len(set(block // per_group)) == 1


def test_block_lengths_are_those_that_packing_stores():
    matrix = _matrix(np.random.default_rng(2), 24, 50, 1, 0.2)
    dealt = split_rows(matrix == 0, (8, 4, 2, 1), 1)
    for (size, lengths), (_, rows) in zip(block_lengths(matrix == 0, dealt), dealt, strict=True):
        assert pack(matrix, matrix == 0, rows, size).length.tolist() == lengths.tolist()
