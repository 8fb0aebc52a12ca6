from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monstera.search import choose_block, weights_per_group
from monstera.sparsity import PLAIN, Block, Layout, pattern

TIMES = st.dictionaries(st.integers(1, 9), st.floats(0.1, 10), min_size=1, max_size=6)


@given(TIMES, st.floats(0, 2))
def test_no_smaller_block_is_as_fast_and_none_is_much_faster(times: dict[int, float], within: float) -> None:
    times_ms = {Block(out, 1): ms for out, ms in times.items()}
    sizes = {block: float(str(block.out)) for block in times_ms}
    chosen = choose_block(times_ms, sizes, within)
    limit = min(times_ms.values()) * (1 + within)
    assert times_ms[chosen] <= limit
    assert not [b for b in times_ms if sizes[b] < sizes[chosen] and times_ms[b] <= limit]


def test_of_equally_small_blocks_the_faster_wins() -> None:
    wide, tall = Block(1, 4), Block(4, 1)
    assert choose_block({wide: 1.04, tall: 1.0}, {wide: 4, tall: 4}) == tall


def test_candidates_and_a_share_are_needed() -> None:
    with pytest.raises(ValueError, match="got 0 candidates"):
        choose_block({}, {})


@pytest.mark.parametrize(
    ("name", "shape", "layout", "expected"),
    [
        ("4x1", (16, 8, 3, 3), PLAIN, 4),
        ("8x4", (16, 8, 3, 3), PLAIN, 32),
        ("filter", (16, 8, 3, 3), PLAIN, 72),
        # 6 rows in blocks of 4 and 2
        ("4x1", (6, 8), PLAIN, 3),
        ("16x1", (12, 8), Layout(parts=3), 4),
        ("patterns4of8", (16, 8, 3, 3), PLAIN, 1),
    ],
)
def test_groups_are_as_large_as_they_are_in_the_weight(name: str, shape, layout: Layout, expected: float) -> None:
    assert weights_per_group(pattern(name), torch.Size(shape), layout) == expected
