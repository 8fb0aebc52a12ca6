"""The page on storage forms: what code printed into it is up to date, and its masks are those it speaks of."""

from __future__ import annotations

import re

import formats_example as script
import numpy as np
import pytest
from pages import page_with

from monstera.sparsity import Block
from monstera.sparsity.storage import BCRC, UnifiedBlocks


@pytest.fixture(scope="module")
def layers() -> dict[str, np.ndarray]:
    return dict(script.masked_layers())


def test_the_page_says_what_the_code_prints():
    page = script.PAGE.read_text(encoding="utf-8")
    assert page == page_with(page, script.parts()), f"{script.PAGE} is out of date: run docs/formats_example.py"


def test_what_the_page_links_to_is_there():
    for link in re.findall(r"\]\(([^)#:]+)\)", script.PAGE.read_text(encoding="utf-8")):
        assert (script.PAGE.parent / link).exists(), link


def test_every_pattern_keeps_about_a_tenth(layers):
    for name, weight in layers.items():
        assert np.count_nonzero(weight) == pytest.approx(script.DENSITY * weight.size, rel=0.005), name


def test_bcr_masks_keep_rows_times_columns_of_each_block(layers):
    alive = layers["BCR, blocks of 64x256"].reshape(256, -1) != 0
    for y in range(0, 256, 64):
        for x in range(0, alive.shape[1], 256):
            block = alive[y : y + 64, x : x + 256]
            rows, columns = block.any(1), block.any(0)
            np.testing.assert_array_equal(block, np.outer(rows, columns))
            assert (rows.sum(), columns.sum()) == (51, 32)


def test_kernels_keep_four_positions_of_a_pattern_in_the_library_or_none(layers):
    kernels = layers["4 of 9 and kernels"].reshape(-1, 9) != 0
    found = {"".join("#" if kept else "." for kept in kernel) for kernel in np.unique(kernels, axis=0)}
    assert found == {*script.LIBRARY, "." * 9}


def test_unified_blocks_keep_their_mask_and_signs(layers):
    plain, unified = layers["16x1"], layers["16x1, unified"]
    np.testing.assert_array_equal(np.sign(plain), np.sign(unified))
    stored = UnifiedBlocks.encode(unified, (16, 1, 1))
    assert stored.weights.size == 0
    assert stored.magnitude.size == np.count_nonzero(unified) / 16
    assert BCRC.encode(unified).groups == 16
    assert Block(16, 1, 1).count(unified.shape) == 8 * UnifiedBlocks.encode(plain, (16, 1, 1)).alive.size
