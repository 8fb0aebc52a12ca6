"""The sanitizers see what they are there for, and threads of generated code pass ThreadSanitizer.

The rest of `make test-sanitize` is other tests, run with `MONSTERA_SANITIZE=address,undefined`.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import monstera as ms
from monstera.compiler.build import build, compiler_command, sanitizer_flags
from monstera.compiler.targets import native

CALLERS = Path(__file__).parent / "callers.c"
instrumented = pytest.mark.skipif(not os.environ.get("MONSTERA_SANITIZE"), reason="make test-sanitize preloads it")


@instrumented
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("static float few[3]; float *x = few; return x[n];", "global-buffer-overflow"),
        ("float few[3] = {0}, *x = few; return x[n];", "stack-buffer-overflow"),
        ("float *x = malloc(12); return x[n];", "heap-buffer-overflow"),
        ("return 1 << (n * 16);", "shift exponent"),
        ("return (float)(0x7fffffff + n);", "signed integer overflow"),
    ],
)
def test_an_error_in_generated_code_ends_the_process_with_its_name(body, words, tmp_path):
    source = f'#include <stdlib.h>\n__attribute__((visibility("default"))) float wrong(int n) {{ {body} }}\n'
    library = build(source, native())
    script = f"import ctypes; ctypes.CDLL({str(library)!r}).wrong(3)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert re.search(words, done.stderr), done.stderr


@instrumented
def test_reading_a_float_beyond_the_weights_or_the_arena_is_seen(tmp_path):
    from conftest import _watched

    source = '__attribute__((visibility("default"))) float read(float *x, long n) { return x[n]; }\n'
    library = ctypes.CDLL(str(build(source, native())))
    memory = _watched(256)
    library.read(ctypes.c_void_p(memory.ctypes.data), ctypes.c_long(63))
    child = os.fork()
    if child == 0:
        os.dup2(os.open(tmp_path / "said", os.O_CREAT | os.O_WRONLY), 2)
        library.read(ctypes.c_void_p(memory.ctypes.data), ctypes.c_long(64))
        os._exit(0)
    assert os.waitpid(child, 0)[1] != 0
    assert "heap-buffer-overflow" in (tmp_path / "said").read_text()


def test_without_the_option_nothing_is_instrumented(monkeypatch):
    monkeypatch.delenv("MONSTERA_SANITIZE", raising=False)
    assert sanitizer_flags() == ()


def image_network() -> tuple[nn.Module, torch.Tensor]:
    """Convolutions, one with holes, pooling, and a product."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.MaxPool2d(2), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(16 * 4 * 4, 20), nn.Softmax(1)).eval()
    ms.prune(model, ms.Plan({"2.weight": ("4x1", 0.5)}))
    return model, torch.zeros(1, 3, 19, 18)


class Sequences(nn.Module):
    """A recurrence, whose threads meet in each step, then attention, whose threads have memory of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 20, batch_first=True)
        self.attention = nn.TransformerEncoderLayer(20, 4, 24, 0.0, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(self.gru(x)[0])


def sequence_network() -> tuple[nn.Module, torch.Tensor]:
    """A recurrence and attention over 37 tokens of two sequences."""
    return Sequences().eval(), torch.zeros(2, 37, 6)


@pytest.fixture(scope="module")
def thread_sanitizer(tmp_path_factory) -> list[str]:
    """What starts a program that was built with ThreadSanitizer, which a probe says works here."""
    folder = tmp_path_factory.mktemp("probe")
    # Where the kernel spreads addresses wider than the sanitizer knows, it does not start.
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []
    (folder / "probe.c").write_text("int main(void) { return 0; }\n")
    build_line = [*compiler_command(), "-fsanitize=thread", "-o", "probe", "probe.c"]
    for line in (build_line, [*fixed, str(folder / "probe")]):
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, env=_plain())
        if done.returncode:
            pytest.skip(f"this C compiler has no ThreadSanitizer: {done.stderr[:200]}")
    return fixed


@pytest.fixture(scope="module", params=[image_network, sequence_network])
def callers(request, thread_sanitizer, tmp_path_factory) -> list[str]:
    """A command that runs `callers.c` around a network of three threads, under ThreadSanitizer."""
    folder = tmp_path_factory.mktemp("callers")
    torch.manual_seed(0)
    model, x = request.param()
    engine = ms.compile(model, x, threads=3)
    engine.export_c(folder)
    flags = [*engine.manifest.flags, "-O1", "-g", "-w", "-fsanitize=thread"]
    line = [*compiler_command(), *flags, "-I.", "-o", "callers", str(CALLERS), "net.c", "-lm", "-lpthread"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, env=_plain())
    assert done.returncode == 0, done.stderr
    return [*thread_sanitizer, str(folder / "callers"), str(folder / "weights.safetensors")]


def _plain() -> dict[str, str]:
    """The environment without another sanitizer in it."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def test_four_callers_of_three_threads_race_for_nothing(callers):
    done = subprocess.run([*callers, "4", "5"], capture_output=True, text=True, env=_plain())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "4 callers, 5 runs each: right\n"


def test_callers_that_share_an_arena_are_caught(callers):
    done = subprocess.run([*callers, "4", "5", "shared"], capture_output=True, text=True, env=_plain())
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
