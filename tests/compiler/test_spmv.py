"""The SpMV kernel by itself: every block size, rows in order and scattered, one image to many, against numpy."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from monstera.compiler import kernels
from monstera.compiler.build import build
from monstera.compiler.ir import Activation
from monstera.compiler.packing import Blocks, pack
from monstera.compiler.targets import TARGETS
from monstera.runtime import architecture, cpu_features

SIZES = (1, 4, 8, 16)
RELU = Activation("relu")
HERE = [t for t in TARGETS.values() if t.architecture == architecture() and cpu_features().issuperset(t.features)]


class Args(ctypes.Structure):
    """`spmv_args`."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("x_image", ctypes.c_long),
        ("y_image", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("offset", "weight", "block", "bias", "row")),
        ("blocks", ctypes.c_int),
        ("images", ctypes.c_int),
        ("first_row", ctypes.c_int),
    ]


@pytest.fixture(scope="module", params=HERE, ids=lambda target: target.name)
def library(request) -> ctypes.CDLL:
    """All block sizes with and without an activation, built for one instruction set."""
    used = [kernels.spmv_kernel(size, activation) for size in SIZES for activation in (None, RELU)]
    call = "{{ {0}(a, (part){{id, count, {{0, 1 << 30}}}}); }}\n"
    exports = (f"EXPORT void run_{k.name}(const spmv_args *a, int id, int count) {call.format(k.name)}" for k in used)
    return ctypes.CDLL(str(build(kernels.source(used, request.param) + "".join(exports), request.param)))


def _run(library: ctypes.CDLL, blocks: Blocks, bias: np.ndarray, x: np.ndarray, y: np.ndarray, **how) -> None:
    """y[image, row] of the rows in `blocks`, by `threads` threads one after the other."""
    table = np.stack([blocks.start, blocks.first, blocks.length, 0 * blocks.start], 1).astype(np.int32)
    row = np.ascontiguousarray(blocks.row)
    held = [x, y, blocks.columns, blocks.values, table, bias[row].astype(np.float32), row]
    x_, y_, offset, weight, block, bias_, row_ = (array.ctypes.data for array in held)
    scattered = row_ if how["scattered"] else None
    args = Args(
        x_, y_, x.shape[1], y.shape[1], offset, weight, block, bias_, scattered, blocks.count, len(x), int(row[0, 0])
    )
    name = kernels.spmv_kernel(blocks.rows, how["activation"]).name
    for thread in range(how["threads"]):
        library[f"run_{name}"](ctypes.byref(args), thread, how["threads"])


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
