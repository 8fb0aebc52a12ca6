"""Tiles of matrix kernels: a width that nobody asked for is not passed over in silence."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monstera.compiler import kernels
from monstera.compiler.build import build
from monstera.compiler.targets import native

GEMM = "gemm(1, {width}, m, 1, 1, m, 1, 1, m, out, 1, 64);"
SPMM = """
    static const int table[4], row[1];
    static const uint16_t mask[4];
    const spmm_args a = {{
        .x = m, .y = out, .weight = m, .bias = m, .offset = table, .block = table, .row = row, .mask = mask,
        .stretches = 1, .blocks = 1, .groups = 1, .vectors = {width}, .chunk = {width}, .tile = {width},
    }};
    {name}(&a, (part){{0, 1, {{0, 4}}}});
"""


@pytest.mark.parametrize("kind", ["product", "convolution"])
def test_a_tile_of_a_width_that_was_not_built_ends_the_process(kind):
    target = native()
    kernel = kernels.matmul_kernel({1}) if kind == "product" else kernels.spmm_kernel(1, {2}, None, target)
    body = GEMM if kind == "product" else SPMM
    bodies = {width: body.format(width=width, name=kernel.name) for width in (1, 2)}
    calls = [f"EXPORT void tile_of_{w}(void) {{ static float m[64], out[64]; {b} }}\n" for w, b in bodies.items()]
    library = build(kernels.source([kernel], target) + "".join(calls), target)
    assert _status(library, 1) == 0
    assert _status(library, 2) in (-signal.SIGILL, -signal.SIGTRAP)


def _status(library: Path, width: int) -> int:
    script = f"import ctypes; ctypes.CDLL({str(library)!r}).tile_of_{width}()"
    return subprocess.run([sys.executable, "-c", script], check=False).returncode
