"""Threads: several engines and callers at once, processes that fork in the midst of it, and quiet afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import monstera as ms


def _in_threads(count: int, call: Callable[[int], None]) -> None:
    """Run `call(i)` in threads at the same time; what it raises, the test raises."""
    failures: list[BaseException] = []
    start = threading.Barrier(count)

    def run(i: int) -> None:
        start.wait()
        try:
            call(i)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.fixture(scope="module")
def engines() -> list[tuple[ms.Engine, torch.Tensor]]:
    """Four networks of different length and size, of one to four threads, each with an input."""
    torch.manual_seed(0)
    pairs = []
    for i in range(4):
        channels = 4 + 5 * i
        body = [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()] * (1 + i)
        x = torch.randn(1, 3, 12 + i, 9 + 2 * i)
        pairs.append((ms.compile(nn.Sequential(nn.Conv2d(3, channels, 1), *body).eval(), x, threads=1 + i), x))
    return pairs


def test_four_engines_with_four_callers_each_give_equal_answers_every_time(engines):
    expected = [engine(x) for engine, x in engines]

    def call(i: int) -> None:
        engine, x = engines[i % 4]
        for _ in range(60):
            assert torch.equal(engine(x), expected[i % 4])

    _in_threads(16, call)


def test_callers_with_inputs_of_their_own_do_not_see_each_others(engines):
    engine, x = engines[3]
    inputs = [x * (i + 1) for i in range(4)]
    expected = [engine(value) for value in inputs]

    def call(i: int) -> None:
        for _ in range(60):
            assert torch.equal(engine(inputs[i]), expected[i])

    _in_threads(4, call)


def test_an_idle_process_does_no_work(engines):
    for engine, x in engines:
        engine(x)
    time.sleep(0.1)  # threads spin for a moment before they sleep
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.02


def test_a_process_that_forks_while_others_call_works_in_the_child(engines):
    engine, x = engines[3]
    expected = engine(x)
    done = threading.Event()

    def call(i: int) -> None:
        if i < 3:
            while not done.is_set():
                assert torch.equal(engine(x), expected)
            return
        try:
            statuses = [_status_of_child(lambda: torch.equal(engine(x), expected)) for _ in range(10)]
        finally:
            done.set()
        assert statuses == [0] * 10

    _in_threads(4, call)


def _status_of_child(holds: Callable[[], bool]) -> int:
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a deadlock ends, and not well
        os._exit(0 if holds() else 1)
    return os.waitpid(child, 0)[1]


def test_a_child_of_a_child_has_threads_of_its_own(engines):
    engine, x = engines[2]
    expected = engine(x)

    def holds() -> bool:
        right = torch.equal(engine(x), expected)
        return right and _status_of_child(lambda: torch.equal(engine(x), expected)) == 0

    assert _status_of_child(holds) == 0
    assert torch.equal(engine(x), expected)


_ONE_CALL = """
import threading, numpy as np, monstera
engine = monstera.load("net.monstera")
x = np.zeros((1, 3, 15, 15), np.float32)
engine(x)
"""
_AND_ONE_THREAD_GOES_ON = """
def forever():
    while True:
        engine(x)
threading.Thread(target=forever, daemon=True).start()
"""


@pytest.mark.parametrize("script", [_ONE_CALL, _ONE_CALL + _AND_ONE_THREAD_GOES_ON])
def test_a_program_ends_quietly_with_engines_still_there(engines, script, tmp_path):
    """Right after a call the engine's threads are awake."""
    engines[3][0].save(tmp_path / "net.monstera")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_threads_do_not_change_what_the_caller_rounds(engines):
    """Denormals are flushed during a run only, in the caller's thread too."""
    tiny = np.float32(1e-39)
    for engine, x in engines:
        engine(x)
        assert tiny * np.float32(0.5) != 0
