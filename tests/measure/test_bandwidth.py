import pytest

from monstera.measure import read_bandwidths
from monstera.measure.bandwidth import cache_bytes, working_sets


def test_caches_nearer_to_the_core_are_faster():
    found = {b.level: b for b in read_bandwidths()}
    assert list(found) == [*cache_bytes(), "DRAM"]
    # One float a nanosecond would be 4 GB/s; vectors from the first level are far above, and memory is far below them.
    assert found["L1"].gbytes_per_s > 20
    assert found["L1"].gbytes_per_s > 2 * found["DRAM"].gbytes_per_s


def test_a_working_set_fits_its_cache_with_room_to_spare_and_memory_is_larger_than_all():
    sets = working_sets({"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}, threads=1)
    assert sets == {"L1": 16 << 10, "L2": 512 << 10, "L3": 16 << 20, "DRAM": 256 << 20}


def test_threads_share_the_last_level_and_memory_and_have_the_others_to_themselves():
    sets = working_sets({"L1": 32 << 10, "L2": 1 << 20, "L3": 96 << 20}, threads=3)
    assert sets == {"L1": 16 << 10, "L2": 512 << 10, "L3": 16 << 20, "DRAM": 128 << 20}


def test_without_a_compiler_no_bandwidth_is_made_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert read_bandwidths() == ()


def test_reading_with_no_threads_is_refused():
    with pytest.raises(ValueError, match="at least 1 thread, got 0"):
        read_bandwidths(0)
