"""Storage forms: what is stored comes back to the bit, whatever the mask, and every byte is accounted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monstera.sparsity import FormatError
from monstera.sparsity.storage import BCRC, BSR, CSR, FKW, Dense, Form, UnifiedBlocks, storage_table
from monstera.sparsity.storage.form import smallest
from sparsity.drawing import SHAPES

BLOCKS = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
DTYPES = st.sampled_from([np.float16, np.float32, np.float64])
FORMS: dict[str, Callable[[np.ndarray, tuple[int, int, int]], Form]] = {
    "dense": lambda weight, _: Dense.encode(weight),
    "CSR": lambda weight, _: CSR.encode(weight),
    "BSR": BSR.encode,
    "BCRC": lambda weight, _: BCRC.encode(weight),
    "FKW": lambda weight, _: FKW.encode(weight),
    "unified": UnifiedBlocks.encode,
}


@st.composite
def weights(draw: st.DrawFn) -> np.ndarray:
    """Any bits at all, or one magnitude and both signs; some zero by unstructured holes, dead rows and columns."""
    shape, dtype = draw(SHAPES), np.dtype(draw(DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    values = rng.integers(0, 256, (prod(shape), dtype.itemsize), np.uint8).view(dtype).reshape(shape)
    kind = draw(st.sampled_from(["any bits", "one magnitude", "zeros of both signs"]))
    if kind != "any bits":
        magnitude = dtype.type(0.75 if kind == "one magnitude" else 0)
        values = np.where(rng.random(shape) < 0.5, magnitude, -magnitude)
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    dead = rng.random(shape) >= density
    dead |= (rng.random(shape[0]) < draw(st.sampled_from([0, 0.5]))).reshape(-1, *[1] * (len(shape) - 1))
    dead |= rng.random(shape[1:]) < draw(st.sampled_from([0, 0.5]))
    return np.where(dead, dtype.type(0), values)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype) and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("form", FORMS)
@given(weight=weights(), block=BLOCKS)
@settings(max_examples=60)
def test_what_is_stored_comes_back_to_the_bit(form, weight, block):
    before = weight.tobytes()
    stored = FORMS[form](weight, block)
    assert same_bits(stored.decode(), weight)
    assert weight.tobytes() == before


@pytest.mark.parametrize("form", FORMS)
@given(weight=weights(), block=BLOCKS)
@settings(max_examples=25)
def test_bytes_are_those_of_the_arrays_whose_index_types_are_the_smallest(form, weight, block):
    stored = FORMS[form](weight, block)
    arrays = stored.arrays
    assert stored.nbytes == sum(array.nbytes for array in arrays.values()) == stored.value_nbytes + stored.index_nbytes
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            assert name in stored.VALUES
            assert array.dtype == weight.dtype
        elif array.size:
            assert array.dtype.itemsize == 1 or array.max() >= 1 << 4 * array.dtype.itemsize


@given(weight=weights())
def test_bcrc_groups_the_rows_with_equal_columns_and_no_others(weight):
    stored = BCRC.encode(weight)
    alive = stored.decode().reshape(len(weight), -1).view(f"u{weight.itemsize}") != 0
    groups = [stored.reorder[a:b] for a, b in zip(stored.occurrence[:-1], stored.occurrence[1:], strict=True)]
    for rows in groups:
        assert (alive[rows] == alive[rows[0]]).all()
    lists = [alive[rows[0]].tobytes() for rows in groups]
    assert len(set(lists)) == len(lists)
    assert sorted(stored.reorder) == list(np.flatnonzero(alive.any(1)))
    sizes = [int(alive[rows[0]].sum()) for rows in groups]
    assert sizes == sorted(sizes, reverse=True)


def test_bcrc_of_the_worked_example_has_these_arrays():
    """A mask of 2 x 2 blocks of 2 x 3: rows and columns removed in each by itself."""
    weight = np.zeros((4, 6), np.float32)
    weight[np.ix_([0, 1], [0, 2, 5])] = [[1, 2, 3], [4, 5, 6]]
    weight[3, [1, 4]], weight[2, 4] = (7, 8), 9
    stored = BCRC.encode(weight)
    assert {name: array.tolist() for name, array in stored.arrays.items()} == {
        "reorder": [0, 1, 3, 2],
        "row_offset": [0, 3, 6, 8, 9],
        "occurrence": [0, 2, 3, 4],
        "column_stride": [0, 3, 5, 6],
        "compact_column": [0, 2, 5, 1, 4, 4],
        "weights": [1, 2, 3, 4, 5, 6, 7, 8, 9],
    }
    assert stored.nbytes == 4 + 5 + 4 + 4 + 6 + 4 * 9


def test_fkw_orders_filters_by_kernels_and_kernels_by_pattern():
    corner, cross = np.array([1, 1, 0, 1, 1, 0, 0, 0, 0]), np.array([0, 1, 0, 1, 1, 1, 0, 0, 0])
    weight = np.zeros((3, 4, 9), np.float32)
    weight[0, 2] = cross
    weight[2, [0, 2, 3]], weight[2, 1] = 2 * corner, 3 * cross
    stored = FKW.encode(weight.reshape(3, 4, 3, 3))
    np.testing.assert_array_equal(np.unpackbits(stored.patterns, axis=1, count=9), [corner, cross])
    assert stored.reorder.tolist() == [2, 0, 1]
    assert stored.offset.tolist() == [0, 4, 5, 5]
    assert stored.index.tolist() == [0, 2, 3, 1, 2]
    assert stored.stride.tolist() == [[0, 3, 4], [0, 0, 1], [0, 0, 0]]
    assert stored.weights.tolist() == [2] * 12 + [3] * 4 + [1] * 4
    assert stored.nbytes == 2 * 2 + 3 + 4 + 5 + 9 + 4 * 20


def test_a_unified_block_takes_a_magnitude_and_a_bit_a_weight():
    weight = np.zeros((10, 3), np.float32)
    weight[:4, 0], weight[8:, 1], weight[4:8, 2] = (0.5, -0.5, -0.5, 0.5), -2, (1, 2, 1, 1)
    stored = UnifiedBlocks.encode(weight, (4, 1, 1))
    assert stored.magnitude.tolist() == [0.5, 2.0]
    assert np.unpackbits(stored.sign, count=6).tolist() == [0, 1, 1, 0, 1, 1]
    assert stored.weights.tolist() == [1, 2, 1, 1]
    assert stored.nbytes == 2 + 1 + 2 * 4 + 1 + 4 * 4


def test_minus_zero_is_stored_and_zero_is_not():
    weight = np.array([[0.0, -0.0, 1.0]], np.float32)
    assert CSR.encode(weight).column.tolist() == [1, 2]
    assert CSR.encode(weight + 0.0).column.tolist() == [2]
    block = UnifiedBlocks.encode(np.array([[-0.0, 0.0]], np.float32), (1, 2, 1))
    assert block.magnitude.tolist() == [0.0]
    assert block.sign.tolist() == [0b10000000]


def test_index_types_grow_with_their_largest_number():
    for largest, dtype in ((0, "u1"), (255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4")):
        assert smallest(np.array([largest])).dtype == dtype
    assert smallest(np.array([], np.int64)).dtype == "u1"


def test_more_patterns_than_a_3x3_kernel_can_have_are_refused_and_the_table_says_why():
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((40, 40, 3, 3, 3)) < 0.5, rng.standard_normal((40, 40, 3, 3, 3)), 0)
    with pytest.raises(FormatError, match="at most 512; this weight has 1600"):
        FKW.encode(weight)
    table = storage_table(weight)
    assert "few patterns" in table["FKW"].refused
    assert "FKW: FKW is for kernels" in str(table)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([[1.0]], "numpy array, got list"),
        (np.zeros((2, 2), np.int8), "fp16, fp32 or fp64, got int8"),
        (np.zeros(3), r"2 to 5 dimensions.*\[3\]"),
        (np.zeros((3, 0)), r"none of them empty.*\[3, 0\]"),
        (np.zeros((1,) * 6), "2 to 5 dimensions"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_weight_is_refused(form, weight, message):
    with pytest.raises(FormatError, match=message):
        FORMS[form](weight, (1, 1, 1))


@pytest.mark.parametrize("block", [(0, 1, 1), (4, 1), (1.0, 1, 1)])
@pytest.mark.parametrize("form", [BSR, UnifiedBlocks])
def test_what_is_no_block_is_refused(form, block):
    with pytest.raises(FormatError, match="out, in, positions"):
        form.encode(np.zeros((4, 4), np.float32), block)


@pytest.mark.parametrize("form", FORMS)
def test_arrays_that_do_not_belong_together_are_refused(form):
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((9, 7, 3, 3)) < 0.5, rng.standard_normal((9, 7, 3, 3)), 0).astype(np.float32)
    weight[:4, 0, 0, 0] = 0.5
    stored = FORMS[form](weight, (4, 1, 1))
    for name, array in stored.arrays.items():
        for wrong in (array[:-1], array.astype(np.complex64), np.concatenate([array, array])):
            with pytest.raises(FormatError, match=type(stored).__name__):
                replace(stored, **{name: wrong})
        if array.dtype.kind == "u" and name not in ("alive", "unified", "sign", "patterns"):
            with pytest.raises(FormatError, match=f"{name} .*do not belong together"):
                replace(stored, **{name: np.full_like(array, 2**8 * array.dtype.itemsize - 1)})


@pytest.mark.parametrize("form", FORMS)
def test_arrays_of_other_types_and_of_the_other_byte_order_are_refused(form):
    weight = np.zeros((9, 7, 3, 3), np.float32)
    weight[:8, 0, 0, 0], weight[4, 1, 1] = (0.5, 0.25) * 4, (1, 2, 3)
    stored = FORMS[form](weight, (4, 1, 1))
    for name, array in stored.arrays.items():
        if array.dtype.kind == "f":
            others = [array.astype(np.longdouble), array.astype(">f4")]
        elif name in ("alive", "unified", "sign", "patterns"):
            others = [array.astype(np.uint16), array.astype(bool)]
        else:
            others = [array.astype(np.int64), array.astype(">u4")]
        for other in others:
            with pytest.raises(FormatError, match=rf"{name} .*got {other.dtype}"):
                replace(stored, **{name: other})


@pytest.mark.parametrize(
    ("form", "name"), [("CSR", "column"), ("BSR", "column"), ("BCRC", "compact_column"), ("FKW", "index")]
)
def test_a_place_that_is_stored_twice_is_refused(form, name):
    weight = np.zeros((8, 3, 2, 2), np.float32)
    weight[:4, 1:] = weight[4:, :2] = 1
    stored = FORMS[form](weight, (4, 1, 1))
    numbers = stored.arrays[name].copy()
    assert numbers[0] != numbers[1]
    numbers[1] = numbers[0]
    with pytest.raises(FormatError, match=f"{name} of a (row|group|filter) names {numbers[0]} twice"):
        replace(stored, **{name: numbers})


def test_a_row_that_is_stored_twice_is_refused():
    weight = np.ones((3, 2, 3, 3), np.float32)
    for stored in (BCRC.encode(weight), FKW.encode(weight)):
        with pytest.raises(FormatError, match="twice"):
            replace(stored, reorder=np.array([0, 1, 1], np.uint8))


def test_the_table_compares_every_form_with_dense_csr_and_bsr():
    weight = np.zeros((8, 16), np.float32)
    weight[:4, ::4] = 1
    table = storage_table(weight)
    assert [form.form for form in table.forms] == list(FORMS)
    assert table["dense"].nbytes == weight.nbytes
    for form in table.forms:
        assert form.nbytes == FORMS[form.form](weight, (4, 1, 1)).nbytes
        assert f"{form.nbytes / weight.nbytes:.3f}" in str(table)
    assert (table.stored, table.size) == (16, 128)
    with pytest.raises(KeyError, match="dense, CSR, BSR"):
        table["COO"]


def test_weights_that_are_no_contiguous_memory_or_of_the_other_byte_order_are_stored():
    weight = np.arange(24, dtype=np.float32).reshape(6, 4)
    for other in (weight.T, weight[::2, ::-1], weight.astype(">f4")):
        for encode in FORMS.values():
            np.testing.assert_array_equal(encode(other, (4, 1, 1)).decode(), other)


def test_the_modules_of_the_forms_import_numpy_alone():
    code = (
        "import ast, pathlib, monstera.sparsity.storage as s\n"
        "files = pathlib.Path(s.__file__).parent.glob('*.py')\n"
        "nodes = [n for f in files for n in ast.walk(ast.parse(f.read_text()))]\n"
        "names = {n.module for n in nodes if isinstance(n, ast.ImportFrom)}\n"
        "names |= {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}\n"
        "print(sorted(n for n in names if 'torch' in n or (n.startswith('monstera') and '.storage' not in n)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['monstera.sparsity.errors']"
