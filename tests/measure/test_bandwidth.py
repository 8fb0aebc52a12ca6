import pytest

from monstera.measure import read_bandwidths
from monstera.measure.bandwidth import cache_bytes, working_sets


def test_caches_nearer_to_the_core_are_faster():
    found = {b.level: b for b in read_bandwidths()}
    assert {level: b.size_bytes for level, b in found.items() if level != "DRAM"} == cache_bytes()
    assert list(found)[-1] == "DRAM"
    # One float a nanosecond would be 4 GB/s; vectors from the first level are far above, and memory is far below them.
    assert found["L1"].gbytes_per_s > 20
    assert found["L1"].gbytes_per_s > 2 * found["DRAM"].gbytes_per_s


def test_a_working_set_is_too_large_for_the_level_below_and_fits_its_own():
    sets = working_sets({"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}, threads=1)
    assert sets == {"L1": 16 << 10, "L2": 128 << 10, "L3": 4 << 20, "DRAM": 256 << 20}
    assert working_sets({"L1": 64 << 10, "L2": 256 << 10}, threads=1)["L2"] == 128 << 10


def test_threads_share_the_last_level_and_memory_and_have_the_others_to_themselves():
    sets = working_sets({"L1": 32 << 10, "L2": 4 << 20, "L3": 96 << 20}, threads=4)
    assert sets == {"L1": 16 << 10, "L2": 128 << 10, "L3": 12 << 20, "DRAM": 96 << 20}


def test_without_a_compiler_no_bandwidth_is_made_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert read_bandwidths() == ()


def test_reading_with_no_threads_is_refused():
    with pytest.raises(ValueError, match="at least 1 thread, got 0"):
        read_bandwidths(0)
