"""Unified columns: what is split is whole again, the kernel by itself against numpy, and layers that come to use it."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import monstera as ms
from compiler.spmv_calls import HERE, UNIFIED_POINTERS, Args, UnifiedArgs, library_of, run_kernel
from monstera.compiler import kernels, price
from monstera.compiler.ir import Activation
from monstera.compiler.lowering.choice import Candidate, spmv_candidates
from monstera.compiler.lowering.unified import SIZES, UnifiedColumns, near, unified_candidates, unified_columns
from monstera.compiler.packing import Blocks, pack
from monstera.compiler.price import spmv_price
from monstera.compiler.targets import TARGETS

RELU = Activation("relu")


@pytest.fixture(scope="module", params=HERE, ids=lambda target: target.name)
def library(request) -> ctypes.CDLL:
    """Both block sizes with and without an activation, built for one instruction set, and the plain kernels."""
    calls = {
        kernel: args
        for size in SIZES
        for activation in (None, RELU)
        for kernel, args in (
            (kernels.spmv_unified_kernel(size, activation), "spmv_unified_args"),
            (kernels.spmv_kernel(size, activation), "spmv_args"),
        )
    }
    return library_of(calls, request.param)


def matrix_of(rng: np.random.Generator, size: int, blocks: int, columns: int, unified: float) -> np.ndarray:
    """Blocks of `size` rows with half of their columns; of those the share `unified` with one magnitude."""
    matrix = rng.standard_normal((blocks, size, columns)).astype(np.float32)
    one = rng.random((blocks, 1, columns)) < unified
    matrix = np.where(one, np.copysign(matrix[:, :1], matrix), matrix)
    return np.where(rng.random((blocks, 1, columns)) < 0.5, 0, matrix).astype(np.float32).reshape(-1, columns)


def run(library: ctypes.CDLL, blocks: Blocks, bias: np.ndarray, x: np.ndarray, y: np.ndarray, **how) -> None:
    """y[image, row] of the rows in `blocks`, by `threads` threads one after the other."""
    columns = unified_columns(blocks, np.arange(x.shape[1]), 0 * blocks.start)
    held = {name: getattr(columns, name) for name in UNIFIED_POINTERS[:5]}
    held |= {"bias": bias[blocks.row].astype(np.float32), "row": np.ascontiguousarray(blocks.row)}
    pointers = {name: array.ctypes.data for name, array in held.items()}
    pointers["row"] = pointers["row"] if how["scattered"] else None
    args = UnifiedArgs(x.ctypes.data, y.ctypes.data, x.shape[1], y.shape[1], **pointers)
    args.blocks, args.images, args.first_row = blocks.count, len(x), int(blocks.row[0, 0])
    run_kernel(library, kernels.spmv_unified_kernel(blocks.rows, how["activation"]), args, how["threads"])


def whole(columns: UnifiedColumns, blocks: Blocks, shape: tuple[int, int]) -> np.ndarray:
    """The matrix that unified and plain columns hold: a slow inverse of the split."""
    matrix = np.zeros(shape, np.float32)
    for rows, (o, m, unified, w, plain, x) in zip(blocks.row, columns.block, strict=True):
        for i in range(unified):
            signs = [-1 if columns.sign[m + i] >> r & 1 else 1 for r in range(blocks.rows)]
            matrix[rows, x + columns.offset[o + i]] = columns.magnitude[m + i] * np.array(signs, np.float32)
        for i in range(plain):
            matrix[rows, x + columns.offset[o + unified + i]] = columns.weight[w + i]
    return matrix


@given(st.sampled_from(SIZES), st.integers(1, 4), st.integers(1, 20), st.sampled_from([0, 0.5, 1]), st.integers(0, 999))
@settings(max_examples=60)
def test_split_columns_hold_every_weight_once(size, count, columns, unified, seed):
    rng = np.random.default_rng(seed)
    matrix = matrix_of(rng, size, count, columns, unified)
    blocks = pack(matrix, matrix == 0, rng.permutation(len(matrix)).reshape(-1, size))
    split = unified_columns(blocks, np.arange(columns), 0 * blocks.start)
    np.testing.assert_array_equal(whole(split, blocks, matrix.shape), matrix)
    assert len(split.magnitude) + len(split.weight) == len(split.offset) == blocks.length.sum()


def test_offsets_count_from_the_nearest_and_reach_as_far_as_two_bytes():
    matrix = np.ones((8, 2), np.float32)
    blocks = pack(matrix, matrix == 0, np.arange(8)[None])
    split = unified_columns(blocks, np.array([70_000, 70_000 + 65_535]), np.array([100]))
    assert split.offset.tolist() == [0, 65_535]
    assert split.block[0, 5] == 70_100
    assert near(np.array([5, 65_540]))
    assert not near(np.array([5, 65_541]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("images", "threads"), [(1, 1), (3, 1), (4, 3), (5, 1), (9, 7)])
@pytest.mark.parametrize("columns", [1, 3, 8, 9, 31, 67])
@pytest.mark.parametrize("unified", [0.0, 0.5, 1.0])
def test_products_are_those_of_numpy(library, size, images, threads, columns, unified):
    rng = np.random.default_rng(columns)
    matrix = matrix_of(rng, size, 5, columns, unified)
    bias, x = rng.standard_normal(len(matrix)), rng.standard_normal((images, columns + 3)).astype(np.float32)
    for scattered in (False, True):
        for activation in (None, RELU):
            expected = x[:, :columns] @ matrix.T + bias
            rows = np.arange(len(matrix)).reshape(-1, size)
            rows = rng.permutation(rows) if scattered else rows
            y = np.full((images, len(matrix) + 2), np.nan, np.float32)
            how = {"scattered": scattered, "activation": activation, "threads": threads}
            run(library, pack(matrix, matrix == 0, rows), bias, x, y, **how)
            expected = np.maximum(expected, 0) if activation else expected
            np.testing.assert_allclose(y[:, : len(matrix)], expected, rtol=1e-5, atol=1e-5)
            assert np.isnan(y[:, len(matrix) :]).all(), "written beyond the rows"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("images", [1, 4])
def test_unified_columns_give_the_very_sums_of_the_plain_kernel(library, size, images):
    rng = np.random.default_rng(0)
    matrix = matrix_of(rng, size, 3, 101, 1.0)
    bias, x = rng.standard_normal(len(matrix)).astype(np.float32), rng.standard_normal((images, 101)).astype(np.float32)
    blocks = pack(matrix, matrix == 0, np.arange(len(matrix)).reshape(-1, size))
    y, plain = np.zeros((2, images, len(matrix)), np.float32)
    run(library, blocks, bias, x, y, scattered=False, activation=None, threads=1)
    table = np.stack([blocks.start, blocks.first, blocks.length, 0 * blocks.start], 1).astype(np.int32)
    held = [x, plain, blocks.columns, blocks.values, table, bias]
    x_, y_, *tables = (array.ctypes.data for array in held)
    args = Args(x_, y_, x.shape[1], len(matrix), *tables, None, blocks.count, 1, images, 0)
    run_kernel(library, kernels.spmv_kernel(size, None), args, threads=1)
    np.testing.assert_array_equal(y, plain)


@pytest.mark.parametrize("size", SIZES)
def test_nan_passes_from_inputs_and_from_magnitudes(library, size):
    for matrix, x in ((np.ones((size, 5)), [1, 1, np.nan, 1, 1]), (np.full((size, 5), -np.nan), [1.0] * 5)):
        y = np.zeros((1, size), np.float32)
        matrix = matrix.astype(np.float32)
        blocks = pack(matrix, matrix == 0, np.arange(size)[None])
        vector = np.array([x], np.float32)
        run(library, blocks, np.zeros(size), vector, y, scattered=False, activation=RELU, threads=1)
        assert np.isnan(y).all()


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
@pytest.mark.parametrize("size", SIZES)
def test_unified_columns_are_cheaper_where_weights_come_from_memory_alone(target, size):
    for weights, images, cheaper in (
        (10_000_000, 1, True),
        (10_000_000, 3, True),
        *((10**6, n, False) for n in range(1, 9)),
    ):
        plain, unified = (spmv_price(images, weights, target, kind) for kind in (False, True))
        assert (unified.column[size] < plain.column[size]) == cheaper


def test_candidates_are_left_as_they_are_unless_magnitudes_repeat(monkeypatch):
    monkeypatch.setattr(price, "_CACHE_BYTES", 0)
    rng = np.random.default_rng(0)
    for unified in (0.0, 1.0):
        matrix = matrix_of(rng, 16, 4, 100, unified)
        found = spmv_candidates(matrix == 0, 1, 1, TARGETS["avx512"])
        marked = unified_candidates(found, matrix, matrix == 0, 1, TARGETS["avx512"])
        assert any(part.unified for part in marked[0].parts) == bool(unified)
        assert unified or all(a is b for a, b in zip(marked, found, strict=True))


def test_of_marked_candidates_that_cost_about_the_same_the_plainest_comes_first(monkeypatch):
    monkeypatch.setattr(price, "_CACHE_BYTES", 0)
    matrix = matrix_of(np.random.default_rng(0), 16, 4, 100, 1.0)
    plain, *_ = spmv_candidates(matrix == 0, 1, 1, TARGETS["avx512"])
    (part,) = plain.parts
    halves = [replace(part, rows=rows, flop=0.4995 * part.flop) for rows in (part.rows[:2], part.rows[2:])]
    cheaper = Candidate(plain.order, tuple(halves))
    assert cheaper.flop < plain.flop
    marked = unified_candidates((cheaper, plain), matrix, matrix == 0, 1, TARGETS["avx512"])
    assert [len(candidate.parts) for candidate in marked] == [1, 2]
    assert marked[0].flop > marked[1].flop


def model_of(rows: int, unified: float) -> nn.Sequential:
    """Two linear layers in blocks of `rows` rows, the second with a batch norm that scales each row by itself."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(300, 160), nn.ReLU(), nn.Linear(160, 64), nn.BatchNorm1d(64)).eval()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            weight = matrix_of(rng, rows, layer.out_features // rows, layer.in_features, unified)
            layer.weight.copy_(torch.from_numpy(weight))
        model[3].weight.copy_(torch.linspace(0.5, 1.5, 64))
    return model


def used(engine: ms.Engine) -> list[tuple[str, str]]:
    """The layers, and the kernels, whose columns are unified."""
    return [(step.layer, step.kernel) for step in engine.manifest.layers if "unified" in step.kernel]


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("images", [1, 5])
def test_layers_from_memory_use_it_and_answer_as_torch_does(monkeypatch, tmp_path, rows, images):
    monkeypatch.setattr(price, "_CACHE_BYTES", 0)
    model, x = model_of(rows, 0.8), torch.randn(images, 300)
    engine = ms.compile(model, x)
    assert ("0", f"f32_spmv_unified_{rows}x1_relu") in used(engine)
    assert all(layer == "0" for layer, _ in used(engine)), "batch norm gives each row a magnitude of its own"
    with torch.no_grad():
        torch.testing.assert_close(engine(x), model(x), rtol=1e-4, atol=1e-4)
    engine.save(tmp_path / "net.monstera")
    assert torch.equal(ms.load(tmp_path / "net.monstera")(x), engine(x))


def test_layers_from_the_cache_and_ordinary_weights_use_the_plain_kernel(monkeypatch):
    x = torch.randn(1, 300)
    assert not used(ms.compile(model_of(16, 1.0), x))
    monkeypatch.setattr(price, "_CACHE_BYTES", 0)
    assert not used(ms.compile(model_of(16, 0.0), x))


def test_the_artifact_holds_the_magnitudes_and_signs_alone(monkeypatch):
    model = model_of(16, 1.0)[:2].eval()
    x = torch.randn(1, 300)
    plain = ms.compile(model, x)
    monkeypatch.setattr(price, "_CACHE_BYTES", 0)
    unified = ms.compile(model, x)
    columns = int(model[0].weight.count_nonzero()) // 16
    (step,) = (layer for layer in unified.manifest.layers if "unified" in layer.kernel)
    assert step.title.endswith(f"{columns} of {columns} columns unified")
    # Bias and tables of blocks are some hundred bytes in both.
    assert unified.memory.weight_bytes < 8 * columns + 2000 < 64 * columns < plain.memory.weight_bytes


def test_convolution_groups_with_one_output_pixel_use_it(monkeypatch):
    monkeypatch.setattr(price, "_CACHE_BYTES", 0)
    torch.manual_seed(0)
    model = nn.Conv2d(40, 64, 3, groups=2).eval()
    weight = matrix_of(np.random.default_rng(0), 16, 4, 180, 1.0)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(weight).reshape(model.weight.shape))
    x = torch.randn(2, 40, 3, 3)
    engine = ms.compile(model, x)
    assert any("unified_16x1" in kernel for _, kernel in used(engine))
    with torch.no_grad():
        torch.testing.assert_close(engine(x), model(x), rtol=1e-5, atol=1e-5)
