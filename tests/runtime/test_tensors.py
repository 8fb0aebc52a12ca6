"""The weights file: plain safetensors, every table on a 64-byte line, damage refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from monstera.runtime.tensors import TensorFileError, data_of, data_size, offsets_of, pack_tensors

tables = st.dictionaries(
    st.text("abc.", min_size=1, max_size=5),
    st.tuples(st.integers(0, 70), st.sampled_from([np.float32, np.int32, np.uint16])).map(
        lambda t: np.arange(t[0]).astype(t[1])
    ),
    max_size=5,
)


@given(tables)
def test_tables_lie_on_lines_and_read_back(given_tables):
    blob = pack_tensors(given_tables)
    data = data_of(blob)
    assert data.size == data_size(given_tables)
    assert data.size == 0 or data.ctypes.data % 64 == 0
    read = load(blob.tobytes())
    for name, start in offsets_of(given_tables).items():
        table = given_tables[name]
        assert start % 64 == 0
        assert data[start : start + table.nbytes].tobytes() == table.tobytes()
        assert read[name][: table.size].tolist() == table.tolist()


@given(tables, st.integers(0, 10_000))
def test_a_file_cut_anywhere_is_refused(given_tables, cut):
    blob = pack_tensors({**given_tables, "z": np.ones(20, np.float32)})
    with pytest.raises(TensorFileError):
        data_of(blob[: cut % len(blob)])
