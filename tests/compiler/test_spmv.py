"""The SpMV kernel by itself: every block size, rows in order and scattered, one image to many, against numpy."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from compiler.spmv_calls import HERE, Args, library_of, run_kernel
from monstera.compiler import kernels
from monstera.compiler.ir import Activation
from monstera.compiler.lowering import single_rows
from monstera.compiler.lowering.single_rows import in_column_groups
from monstera.compiler.packing import Blocks, pack

SIZES = (1, 4, 8, 16)
RELU = Activation("relu")


@pytest.fixture(scope="module", params=HERE, ids=lambda target: target.name)
def library(request) -> ctypes.CDLL:
    """All block sizes with and without an activation, built for one instruction set."""
    used = [kernels.spmv_kernel(size, activation) for size in SIZES for activation in (None, RELU)]
    return library_of(dict.fromkeys(used, "spmv_args"), request.param)


def _run(library: ctypes.CDLL, blocks: Blocks, bias: np.ndarray, x: np.ndarray, y: np.ndarray, **how) -> None:
    """y[image, row] of the rows in `blocks`, by `threads` threads one after the other."""
    base = 0 * blocks.start
    groups, offset, weight = 1, blocks.columns, blocks.values
    table = np.stack([blocks.start, blocks.first, blocks.length, base], 1).astype(np.int32)
    if blocks.rows == 1:
        cut = in_column_groups(blocks, np.arange(x.shape[1]), base, len(x))
        groups, offset, weight, table = cut.count, cut.offset, cut.weight, cut.block
    row = np.ascontiguousarray(blocks.row)
    held = [x, y, offset, weight, table, bias[row].astype(np.float32), row]
    x_, y_, offset_, weight_, block, bias_, row_ = (array.ctypes.data for array in held)
    scattered = row_ if how["scattered"] else None
    sizes = (blocks.count, groups, len(x), int(row[0, 0]))
    args = Args(x_, y_, x.shape[1], y.shape[1], offset_, weight_, block, bias_, scattered, *sizes)
    run_kernel(library, kernels.spmv_kernel(blocks.rows, how["activation"]), args, how["threads"])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("images", "threads"), [(1, 1), (3, 1), (4, 3), (5, 1), (9, 7)])
@pytest.mark.parametrize("columns", [1, 3, 4, 5, 16, 31, 67])
@pytest.mark.parametrize("activation", [None, RELU])
def test_products_are_those_of_numpy(library, size, images, threads, columns, activation):
    rng = np.random.default_rng(columns)
    matrix = rng.standard_normal((5 * size, columns)).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.5] = 0
    bias, x = rng.standard_normal(len(matrix)), rng.standard_normal((images, columns + 3)).astype(np.float32)
    expected = x[:, :columns] @ matrix.T + bias
    expected = np.maximum(expected, 0) if activation else expected
    for scattered in (False, True):
        rows = rng.permutation(len(matrix)) if scattered else np.arange(len(matrix))
        blocks = pack(matrix, matrix == 0, rows.reshape(-1, size))
        y = np.full((images, len(matrix) + 2), np.nan, np.float32)
        _run(library, blocks, bias, x, y, scattered=scattered, activation=activation, threads=threads)
        np.testing.assert_allclose(y[:, : len(matrix)], expected, rtol=1e-5, atol=1e-5)
        assert np.isnan(y[:, len(matrix) :]).all(), "written beyond the rows"


@pytest.mark.parametrize(("images", "threads"), [(1, 1), (3, 2), (9, 1)])
@pytest.mark.parametrize("scattered", [False, True])
def test_single_rows_add_up_over_groups_of_columns(library, monkeypatch, images, threads, scattered):
    monkeypatch.setattr(single_rows, "GROUP_FLOATS", 16)
    monkeypatch.setattr(single_rows, "GROUP_COLUMNS", 1)
    rng = np.random.default_rng(images)
    matrix = rng.standard_normal((7, 101)).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.8] = 0
    matrix[3] = 0
    bias, x = rng.standard_normal(7), rng.standard_normal((images, 101)).astype(np.float32)
    rows = rng.permutation(7) if scattered else np.arange(7)
    blocks = pack(matrix, matrix == 0, rows[:, None])
    assert in_column_groups(blocks, np.arange(101), 0 * blocks.start, images).count > 4
    y = np.full((images, 7), np.nan, np.float32)
    _run(library, blocks, bias, x, y, scattered=scattered, activation=RELU, threads=threads)
    np.testing.assert_allclose(y, np.maximum(x @ matrix.T + bias, 0), rtol=1e-5, atol=1e-5)


def test_groups_of_columns_hold_every_weight_once_and_near_the_others():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((5, 4000)).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.7] = 0
    matrix[4] = matrix[1]
    blocks = pack(matrix, matrix == 0, np.arange(5)[:, None])
    offsets, base = 50 * np.arange(4000) - 7, 1000 * np.arange(5)
    groups = in_column_groups(blocks, offsets, base, images=1)
    assert groups.count >= 200_000 // 65_536
    found = np.zeros_like(matrix)
    for i, (first, weight, length, start) in enumerate(groups.block):
        at = start + groups.offset[first : first + length] - base[i % 5]
        found[i % 5, (at + 7) // 50] += groups.weight[weight : weight + length]
    np.testing.assert_array_equal(found, matrix)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scattered", [False, True])
def test_rows_of_other_calls_are_left_alone(library, size, scattered):
    matrix = np.ones((3 * size, 8), np.float32)
    rows = np.arange(size, 2 * size).reshape(1, size)[:, ::-1] if scattered else np.arange(size, 2 * size)[None]
    y = np.full((1, len(matrix)), np.nan, np.float32)
    blocks = pack(matrix, matrix == 0, rows)
    _run(
        library,
        blocks,
        np.zeros(len(matrix)),
        np.ones((1, 8), np.float32),
        y,
        scattered=scattered,
        activation=RELU,
        threads=1,
    )
    assert (y[0, size : 2 * size] == 8).all()
    assert np.isnan(y[0, :size]).all()
    assert np.isnan(y[0, 2 * size :]).all()


@pytest.mark.parametrize("size", SIZES)
def test_nan_passes_and_padding_zeros_do_not_hide_it(library, size):
    matrix = np.ones((size, 5), np.float32)
    x = np.ones((1, 5), np.float32)
    x[0, 2] = np.nan
    for scattered in (False, True):
        y = np.zeros((1, size), np.float32)
        blocks = pack(matrix, matrix == 0, np.arange(size)[None])
        _run(library, blocks, np.zeros(size), x, y, scattered=scattered, activation=RELU, threads=1)
        assert np.isnan(y).all()
