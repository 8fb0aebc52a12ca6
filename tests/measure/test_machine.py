import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from monstera.measure import fma_peak_gflops, pin, probe, this_machine


def test_the_machine_names_its_processor_and_the_version_of_torch():
    machine = this_machine()
    assert machine.cpu
    assert machine.cores == len(os.sched_getaffinity(0))
    assert "torch" in machine.packages


def test_pinning_keeps_a_process_on_as_many_cores_as_asked():
    code = "import os; from monstera.measure import pin; pin(1); print(len(os.sched_getaffinity(0)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "1\n"


def test_more_threads_than_cores_are_refused():
    with pytest.raises(ValueError, match="asked for 4096 threads"):
        pin(4096)


def test_the_measured_peak_is_that_of_vector_fma():
    # One lane at 1 GHz would be 2 GFLOP/s; any machine with vectors of four lanes or more is well above.
    peak = fma_peak_gflops()
    assert peak is not None
    assert 8 < peak < 2000


def test_without_a_compiler_the_peak_is_unknown_and_not_made_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert fma_peak_gflops() is None


def test_a_peak_of_no_threads_is_refused():
    with pytest.raises(ValueError, match="at least 1 thread"):
        fma_peak_gflops(0)


def test_making_threads_is_no_part_of_what_a_probe_takes(monkeypatch: pytest.MonkeyPatch):
    class Slow(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            time.sleep(0.02)
            return super().submit(*args, **kwargs)

    def run() -> float:
        time.sleep(0.05)
        return 0.05e9

    monkeypatch.setattr(probe, "ThreadPoolExecutor", Slow)
    assert 0.8 < probe.best_rate([run], 3) <= 1
