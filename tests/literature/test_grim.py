"""GRIM's choice of a block size by hand.

Source: W. Niu et al., "GRIM", TPAMI 2022, arXiv 2108.11033; the procedure as recalled: the smallest block whose time is
within a share of the least.
"""

from __future__ import annotations

from monstera.search import choose_block
from monstera.sparsity import Block

TIMES = {Block(1, 1): 2.0, Block(2, 1): 1.2, Block(4, 1): 1.04, Block(8, 1): 1.0, Block(16, 1): 1.01}
SIZES = {Block(1, 1): 1, Block(2, 1): 2, Block(4, 1): 4, Block(8, 1): 8, Block(16, 1): 16}


def test_the_smallest_block_about_as_fast_as_the_fastest_is_taken() -> None:
    assert choose_block(TIMES, SIZES, 0.05) == Block(4, 1)


def test_a_wider_margin_takes_a_smaller_block_and_none_the_fastest() -> None:
    assert choose_block(TIMES, SIZES, 0.2) == Block(2, 1)
    assert choose_block(TIMES, SIZES, 1.0) == Block(1, 1)
    assert choose_block(TIMES, SIZES, 0.0) == Block(8, 1)
