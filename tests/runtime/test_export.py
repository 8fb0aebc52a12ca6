"""The C export: built into a program without Python it gives the engine's answer and allocates nothing in a run."""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import monstera as ms
from monstera.cli import app
from monstera.compiler.build import compiler_command
from monstera.zoo import digits_cnn, randomize_

EXAMPLE = Path(__file__).parents[2] / "examples" / "c"
FILES = ["README.md", "net.c", "net.h", "net.mk", "weights.safetensors"]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

# Counts what the program allocates: a definition in the program comes before that of the C library.
COUNTING = r"""
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "net.h"
static atomic_long calls;
void *__libc_malloc(size_t); void *__libc_calloc(size_t, size_t); void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void *malloc(size_t n) { calls++; return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { calls++; return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { calls++; return __libc_realloc(p, n); }
void *aligned_alloc(size_t a, size_t n) { calls++; return __libc_memalign(a, n); }
int main(void) {
    static const long in[] = NET_INPUT_FLOATS, out[] = NET_OUTPUT_FLOATS;
    const float *inputs[NET_INPUTS];
    float *outputs[NET_OUTPUTS];
    for (int i = 0; i < NET_INPUTS; i++) inputs[i] = calloc(in[i], 4);
    for (int i = 0; i < NET_OUTPUTS; i++) outputs[i] = calloc(out[i], 4);
    char *weights = aligned_alloc(64, NET_WEIGHT_BYTES);
    memset(weights, 0, NET_WEIGHT_BYTES);
    float *arena = aligned_alloc(64, 4 * NET_ARENA_FLOATS);
    const long before_team = calls;
    void *team = net_team_new();
    const long before = calls;
    for (int i = 0; i < 100; i++) net_run(team, weights, arena, inputs, outputs, 0);
    const long after = calls;
    net_team_free(team);
    printf("%ld %ld\n", before - before_team, after - before);
    return 0;
}
"""


# Runs both programs with one team and one arena, the larger one.
TWO_SHAPES = r"""
#include <stdio.h>
#include <stdlib.h>
#include "net.h"
static float *floats(size_t n) { return aligned_alloc(64, (4 * n + 63) / 64 * 64); }
int main(void) {
    static const long in[] = NET_INPUT_FLOATS, out[] = NET_OUTPUT_FLOATS;
    static const long in2[] = NET2_INPUT_FLOATS, out2[] = NET2_OUTPUT_FLOATS;
    char *weights = aligned_alloc(64, NET_WEIGHT_BYTES + NET_TAP_BYTES);
    FILE *data = fopen("data", "rb"), *inputs = fopen("in", "rb"), *outputs = fopen("out", "wb");
    if (!data || fread(weights, 1, NET_WEIGHT_BYTES, data) != NET_WEIGHT_BYTES) return 1;
    net_load_taps(weights);
    float *arena = floats(NET_ARENA_FLOATS > NET2_ARENA_FLOATS ? NET_ARENA_FLOATS : NET2_ARENA_FLOATS);
    float *x = floats(in[0]), *x2 = floats(in2[0]), *y = floats(out[0]), *y2 = floats(out2[0]);
    if (!inputs || fread(x, 4, in[0], inputs) != (size_t)in[0]) return 2;
    if (fread(x2, 4, in2[0], inputs) != (size_t)in2[0]) return 3;
    void *team = net_team_new();
    net_run(team, weights, arena, (const float *const[]){x}, (float *const[]){y}, 0);
    net2_run(team, weights, arena, (const float *const[]){x2}, (float *const[]){y2}, 0);
    net_team_free(team);
    fwrite(y, 4, out[0], outputs);
    fwrite(y2, 4, out2[0], outputs);
    fclose(outputs);
    return 0;
}
"""


@pytest.fixture(scope="module")
def digit() -> torch.Tensor:
    return torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def digits_engine(digit) -> ms.Engine:
    model = randomize_(digits_cnn().eval(), digit)
    return ms.compile(model, digit, threads=2)


def _make(net: Path, build: Path, *arguments: str) -> None:
    shutil.copytree(EXAMPLE, build, dirs_exist_ok=True, ignore=shutil.ignore_patterns("net", "classify"))
    command = ["make", f"NET={net}", f"CC={shlex.join(compiler_command())}", *arguments]
    done = subprocess.run(command, cwd=build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


@needs_make
def test_the_example_builds_without_a_warning_and_prints_the_engines_best_classes(digits_engine, digit, tmp_path):
    digits_engine.export_c(tmp_path / "net")
    digit.numpy().tofile(tmp_path / "digit.f32")
    _make(tmp_path / "net", tmp_path / "build", "CFLAGS=-Wall -Wextra -Wno-unused-function")
    line = [tmp_path / "build" / "classify", tmp_path / "net" / "weights.safetensors", tmp_path / "digit.f32", "10"]
    printed = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
    best = [(int(k), float(score)) for k, score in (row.split() for row in printed)]
    scores = digits_engine(digit)[0]
    assert [k for k, _ in best] == scores.argsort(descending=True).tolist()
    np.testing.assert_allclose([s for _, s in best], scores.sort(descending=True).values, rtol=1e-6)


@needs_make
def test_the_example_refuses_what_does_not_fit(digits_engine, digit, tmp_path):
    net = tmp_path / "net"
    digits_engine.export_c(net)
    header = net / "net.h"
    _make(net, tmp_path / "build")
    classify = str(tmp_path / "build" / "classify")
    weights = (net / "weights.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(weights[:-1])
    (tmp_path / "long.safetensors").write_bytes(weights + b"\0")
    digit.numpy()[:, :, 1:].tofile(tmp_path / "short.f32")
    digit.numpy().tofile(tmp_path / "digit.f32")
    good = [str(net / "weights.safetensors"), str(tmp_path / "digit.f32")]
    for arguments, words in [
        ([], "usage"),
        ([str(tmp_path / "none"), good[1]], "cannot open"),
        ([str(tmp_path / "short.safetensors"), good[1]], "too short for this network"),
        ([str(tmp_path / "long.safetensors"), good[1]], "too long for this network"),
        ([good[0], str(tmp_path / "short.f32")], "too short for this network"),
    ]:
        done = subprocess.run([classify, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
    header.write_text(header.read_text().replace("NET_STEPS ", "NET_STEPS 1"))
    _make(net, tmp_path / "build")
    done = subprocess.run([classify, *good], capture_output=True, text=True)
    assert "do not belong together" in done.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="steps in front of glibc's allocator")
def test_a_run_allocates_nothing(digits_engine, tmp_path):
    digits_engine.export_c(tmp_path)
    (tmp_path / "count.c").write_text(COUNTING)
    flags = digits_engine.manifest.flags
    line = [*compiler_command(), *flags, "-w", "-o", "count", "count.c", "net.c", "-lm", "-lpthread"]
    subprocess.run(line, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "count"], capture_output=True, text=True, check=True)
    team, runs = map(int, done.stdout.split())
    assert team > 0, "the counter counts"
    assert runs == 0


def test_the_command_exports_a_program_for_another_machine_too(digits_engine, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    digits_engine.save(tmp_path / "net.monstera")
    monkeypatch.setattr("monstera.runtime.loading.shortfall", lambda *_: "it needs another machine")
    with pytest.raises(ms.ArtifactError, match="another machine"):
        ms.load(tmp_path / "net.monstera")
    shown = CliRunner().invoke(app, ["export-c", str(tmp_path / "net.monstera"), str(tmp_path / "a" / "b")])
    assert shown.exit_code == 0, shown.output
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == FILES
    assert (tmp_path / "a" / "b" / "net.c").read_text() == digits_engine.c_source


def test_a_network_of_two_shapes_runs_in_c_at_both(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.ReLU(), torch.nn.Linear(32, 5)).eval()
    ms.prune(model, ms.Plan({"0.weight": ("4x1", 0.5)}))
    inputs = [torch.randn(1, length, 24) for length in (11, 37)]
    engine = ms.compile(model, inputs[0], also=inputs[1:])
    assert engine.manifest.tap_bytes > 0
    engine.export_c(tmp_path)
    (tmp_path / "two.c").write_text(TWO_SHAPES)
    flags = [*engine.manifest.flags, "-Wall", "-Wextra", "-Wno-unused-function", "-Werror"]
    line = [*compiler_command(), *flags, "-o", "two", "two.c", "net.c", "-lm", "-lpthread"]
    subprocess.run(line, cwd=tmp_path, check=True)
    (tmp_path / "in").write_bytes(b"".join(x.numpy().tobytes() for x in inputs))
    weights = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "data").write_bytes(weights[-engine.manifest.weight_bytes :])
    subprocess.run([tmp_path / "two"], cwd=tmp_path, check=True)
    expected = np.concatenate([engine(x.numpy()).reshape(-1) for x in inputs])
    assert np.array_equal(np.fromfile(tmp_path / "out", np.float32), expected)


@needs_make
def test_the_example_runs_a_network_of_two_shapes_at_the_first(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(24, 32).eval()
    ms.prune(model, ms.Plan({"weight": ("4x1", 0.5)}))
    x = torch.randn(1, 11, 24)
    engine = ms.compile(model, x, also=[torch.zeros(1, 37, 24)])
    engine.export_c(tmp_path / "net")
    x.numpy().tofile(tmp_path / "x.f32")
    _make(tmp_path / "net", tmp_path / "build", "CFLAGS=-Wall -Wextra -Wno-unused-function")
    line = [tmp_path / "build" / "classify", tmp_path / "net" / "weights.safetensors", tmp_path / "x.f32", "1"]
    place, score = subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()
    answer = engine(x).reshape(-1)
    assert int(place) == int(answer.argmax())
    assert float(score) == pytest.approx(float(answer.max()), rel=1e-6)


def test_the_header_says_what_to_pass(engine, tmp_path):
    engine.export_c(tmp_path)
    header = (tmp_path / "net.h").read_text()
    manifest = engine.manifest
    for line in (
        f"#define NET_ARENA_FLOATS {manifest.arena_floats}L",
        f"#define NET_WEIGHT_BYTES {manifest.weight_bytes}L",
        "#define NET_INPUTS 2",
        "#define NET_INPUT_FLOATS {378L, 10L}",
        "#define NET_OUTPUT_FLOATS {1008L, 1008L, 16L}",
        " *   features [2, 5]",
    ):
        assert line in header
    readme = (tmp_path / "README.md").read_text()
    assert all(flag in readme for flag in manifest.flags)
    assert manifest.platform in readme
