"""Large memory lies on huge pages, belongs to one process, and goes back; loading is quick; results do not change."""

from __future__ import annotations

import gc
import hashlib
import mmap
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import monstera as ms
from monstera.runtime import memory
from monstera.runtime.memory import HUGE_PAGE, LINE, aligned_empty

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's account of a process")


def _flags_of(address: int) -> set[str]:
    """The kernel's flags of the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return set(line.split()[1:])
    raise AssertionError(f"no mapping holds {address:x}")


def _mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE


@pytest.mark.parametrize("size", [1, LINE - 1, LINE, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 1, 3 * HUGE_PAGE + 17])
def test_memory_has_its_size_starts_on_a_line_and_holds_what_is_written(size):
    block = aligned_empty(size)
    assert block.shape == (size,)
    assert block.dtype == np.uint8
    assert block.ctypes.data % (HUGE_PAGE if size >= HUGE_PAGE and sys.platform == "linux" else LINE) == 0
    block[:] = np.arange(size, dtype=np.uint8)
    assert np.array_equal(block, np.arange(size, dtype=np.uint8))


@linux
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no huge pages")
def test_large_memory_asks_for_huge_pages():
    assert "hg" in _flags_of(aligned_empty(4 * HUGE_PAGE).ctypes.data)


def test_a_forked_child_writes_into_memory_of_its_own():
    block = aligned_empty(2 * HUGE_PAGE)
    block[:] = 1
    child = os.fork()
    if child == 0:
        block[:] = 2
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (block == 1).all()


@linux
def test_memory_goes_back_with_the_last_array_on_it():
    kept = aligned_empty(HUGE_PAGE)[7:9]
    before = _virtual_bytes()
    for _ in range(20):
        aligned_empty(16 * HUGE_PAGE)[0] = 1
    assert _virtual_bytes() - before < 16 * HUGE_PAGE
    kept[:] = 3


def test_where_the_memory_lies_does_not_change_the_answer(monkeypatch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 40, 3), torch.nn.ReLU(), torch.nn.Conv2d(40, 8, 3, stride=2)).eval()
    x = torch.randn(1, 3, 130, 131)
    engine = ms.compile(model, x)
    assert engine.memory.arena_bytes > HUGE_PAGE
    huge = engine(x)
    monkeypatch.setattr(memory, "HUGE_PAGE", 1 << 60)
    assert torch.equal(ms.compile(model, x)(x), huge)


def test_an_engine_says_what_it_holds_and_how_little_would_do(engine):
    held, manifest = engine.memory, engine.manifest
    assert held.arena_bytes == 4 * manifest.arena_floats
    assert 0 < held.best_bytes <= held.arena_bytes
    assert held.weight_bytes == sum(t.nbytes for t in _tables(engine))
    assert str(held) == (
        f"memory: arena {held.arena_bytes / 1e6:.2f} MB (at best {held.best_bytes / 1e6:.2f} MB), "
        f"weights {held.weight_bytes / 1e6:.2f} MB"
    )


def _tables(engine: ms.Engine) -> list[np.ndarray]:
    """The weights as another program would read them."""
    from safetensors.numpy import load

    return list(load(engine._artifact.weights.tobytes()).values())


@linux
def test_engines_that_come_and_go_leave_nothing_behind(artifact, example, tmp_path):
    """Neither arenas, nor threads, nor loaded libraries; without the garbage collector's help."""
    path = tmp_path / "net.monstera"
    path.write_bytes(artifact)

    def come_and_go():
        ms.load(path)(**example)

    come_and_go()
    gc.disable()
    try:
        before = _mappings()
        for _ in range(10):
            come_and_go()
        # Allocators may keep a region or two; ten libraries would be forty.
        assert _mappings() - before < 10
    finally:
        gc.enable()


def test_an_engine_in_a_ring_of_garbage_is_collected_without_a_crash():
    code = (
        "import gc, torch, monstera as ms\n"
        "engine = ms.compile(torch.nn.Linear(8, 8).eval(), torch.zeros(1, 8), threads=2)\n"
        "engine(torch.zeros(1, 8))\n"
        "ring = [engine]\n"
        "ring.append(ring)\n"
        "del engine, ring\n"
        "gc.collect()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@linux
def test_threads_of_an_engine_end_with_it(model, example):
    engine = ms.compile(model, example, threads=3)
    engine(**example)
    tasks = Path("/proc/self/task")
    during = len(list(tasks.iterdir()))
    del engine
    assert len(list(tasks.iterdir())) == during - 2


def test_a_hundred_megabytes_of_weights_load_in_little_more_than_their_checksum_takes(tmp_path):
    """Processor time, as other programs may run; and the best of three, as the first may wait for the disk.

    A third of a second, or half as long again as SHA-256 alone where a processor is slow at that.
    """
    model = torch.nn.Linear(5000, 5000).eval()
    path = tmp_path / "net.monstera"
    ms.compile(model, torch.zeros(1, 5000)).save(path)
    assert path.stat().st_size > 100e6
    weights = bytes(100 << 20)

    def best(call: Callable[[], object]) -> float:
        seconds = []
        for _ in range(3):
            start = time.process_time()
            call()
            seconds.append(time.process_time() - start)
        return min(seconds)

    hashing = best(lambda: hashlib.sha256(weights))
    assert best(lambda: ms.load(path)) < max(0.3, 1.5 * hashing)


@linux
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_stays_flat_over_ten_thousand_calls(threads):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10)]
    engine = ms.compile(torch.nn.Sequential(*layers).eval(), torch.zeros(1, 3, 8, 8), threads=threads)
    x = np.ones((1, 3, 8, 8), np.float32)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    def call(times: int) -> None:
        for _ in range(times):
            engine(x)

    call(500)
    before = resident()
    call(10_000)
    # Twenty bytes a call; the smallest object of Python takes more.
    assert resident() - before < 200_000
