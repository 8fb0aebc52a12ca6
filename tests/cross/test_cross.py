"""Code for other processors gives the right answers: avx2 by this processor, 64-bit Arm under an emulator.

Run by `make test-cross`. The quick suite has a small share of avx2 in `test_random_graphs.py` and `test_compile.py`.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import monstera as ms
from compiler.agreement import compare, exact_answers, torch_answers
from compiler.batch import compile_batch, run
from compiler.graphs import fitting_inputs, imported, random_inputs, random_model
from compiler.token_graphs import imported_tokens, token_model
from cross.emulated import NEON, SYSROOT, answers, arrays_of, emulator, nets, run_driver, zig
from monstera.compiler import price
from monstera.compiler.emit import emit, unit
from monstera.compiler.frontends import Imported, from_torch
from monstera.compiler.lowering import lower
from monstera.compiler.passes import optimize
from monstera.compiler.targets import TARGETS
from monstera.runtime import Seal, architecture, cpu_features
from monstera.zoo import calibrate_, network, randomize_

pytestmark = [pytest.mark.cross, pytest.mark.usefixtures("nan_before_first_use")]
BATCH = 25
# Small, as an emulator runs them too; each with its own kinds of layers.
NETWORKS = {
    "digits_cnn": (1, 1, 8, 8),
    "resnet20": (2, 3, 32, 32),
    "resnet18": (1, 3, 40, 56),
    "mobilenet_v2": (1, 3, 64, 64),
    "gru_speech_small": (2, 20, 153),
}
PLANS = (("dense", 1.0), ("4x1", 0.25), ("8x1", 0.1), ("unstructured", 0.1))
avx2 = pytest.mark.skipif(
    not cpu_features().issuperset(TARGETS["avx2"].features), reason="this processor has no avx2 to run it by"
)
Model = torch.nn.Module
Answers = Callable[[list[Imported], list[dict[str, np.ndarray]], int, Path], list[list[list[np.ndarray]]]]


def by_avx2(graphs, inputs, threads, _folder):
    runners = compile_batch(graphs, threads, TARGETS["avx2"])
    return [[run(r, g, i) for _ in range(2)] for r, g, i in zip(runners, graphs, inputs, strict=True)]


def by_neon(graphs, inputs, threads, folder):
    units = [unit(lower(optimize(g.graph), NEON, threads), f"net{i}") for i, g in enumerate(graphs)]
    arrays = [arrays_of(i, [s.name for s in g.inputs]) for g, i in zip(graphs, inputs, strict=True)]
    return answers(units, arrays, threads, folder)


each_target = pytest.mark.parametrize("ours", [pytest.param(by_avx2, marks=avx2), by_neon])


def _check(
    ours: Answers,
    names: list[str],
    models: list[Model],
    graphs: list[Imported],
    threads: int,
    folder: Path,
    reference: Callable[[Model, Imported, dict[str, np.ndarray]], list[torch.Tensor]] = torch_answers,
):
    inputs = [fitting_inputs(g, i) for i, g in enumerate(graphs)]
    given = ours(graphs, inputs, threads, folder)
    for name, model, graph, i, rounds in zip(names, models, graphs, inputs, given, strict=True):
        theirs = reference(model, graph, i)
        for answer in rounds:
            compare(name, graph.graph, i, answer, theirs)


@each_target
@pytest.mark.parametrize(("batch", "threads"), [*itertools.product(range(8), [1]), (8, 2)])
def test_random_networks_agree_with_the_interpreter_and_with_torch(ours, batch, threads, tmp_path):
    seeds = np.random.default_rng(batch).integers(0, 2**32, BATCH).tolist()
    models = [random_model(np.random.default_rng(seed)) for seed in seeds]
    _check(ours, [f"seed {s}" for s in seeds], models, [imported(m) for m in models], threads, tmp_path)


@each_target
@pytest.mark.parametrize(("spatial", "threads"), [(1, 1), (2, 1), (3, 1), (3, 2)])
def test_random_networks_over_one_two_and_three_dimensions_agree(ours, spatial, threads, tmp_path):
    models = [random_model(np.random.default_rng(seed), spatial) for seed in range(BATCH)]
    names = [f"seed {seed} in {spatial} dimensions" for seed in range(BATCH)]
    _check(ours, names, models, [imported(m) for m in models], threads, tmp_path)


@each_target
@pytest.mark.parametrize(("batch", "threads"), [(0, 1), (1, 1), (2, 2)])
def test_random_networks_over_tokens_agree(ours, batch, threads, tmp_path):
    seeds = range(batch * BATCH, (batch + 1) * BATCH)
    models = [token_model(np.random.default_rng(seed)) for seed in seeds]
    _check(ours, [f"seed {s}" for s in seeds], models, [imported_tokens(m) for m in models], threads, tmp_path)


@each_target
@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_agree_under_every_plan(ours, name, tmp_path):
    example = torch.randn(NETWORKS[name], generator=torch.Generator().manual_seed(1))
    models = [_pruned(name, example, *plan) for plan in PLANS]
    graphs = [from_torch(model, (example,), {}) for model in models]
    # In float32 torch's own roundings would count: in MobileNetV2 they are larger than ours on some processors.
    _check(ours, [f"{name} {plan}" for plan in PLANS], models, graphs, 1, tmp_path, exact_answers)


@each_target
@pytest.mark.parametrize("rows", [8, 16])
def test_columns_with_one_magnitude_agree(ours, rows, monkeypatch, tmp_path):
    monkeypatch.setattr(price, "_CACHE_BYTES", 0)
    rng = np.random.default_rng(rows)
    model = torch.nn.Sequential(torch.nn.Linear(75, 4 * rows), torch.nn.ReLU()).eval()
    magnitude = rng.standard_normal((4, 1, 75)) * (rng.random((4, 1, 75)) < 0.6)
    weight = np.where(rng.random((4, rows, 75)) < 0.5, magnitude, -magnitude).reshape(-1, 75)
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(weight))
        model[0].weight[:, ::7] += 0.1
    graph = from_torch(model, (torch.zeros(5, 75),), {})
    steps = lower(optimize(graph.graph), NEON, 1).steps
    assert any("unified" in step.kernel.name for step in steps)
    _check(ours, [f"{rows} rows"], [model], [graph], 1, tmp_path)


def _pruned(name: str, example: torch.Tensor, pattern: str, density: float) -> Model:
    model = randomize_(network(name).eval(), example)
    if pattern != "dense":
        assert ms.prune(model, ms.Plan.uniform(model, pattern, density)).plan.ok
        calibrate_(model, example)
    return model


def test_the_c_example_prints_the_best_classes_on_another_machine(tmp_path):
    example = torch.randn(NETWORKS["digits_cnn"], generator=torch.Generator().manual_seed(1))
    model = _pruned("digits_cnn", example, "4x1", 0.25)
    ms.compile(model, example, target="neon").export_c(tmp_path)
    example.numpy().tofile(tmp_path / "digit.f32")
    line = [*emulator(), "./classify", "weights.safetensors", "digit.f32", "10"]
    main = str(Path(__file__).parents[2] / "examples" / "c" / "main.c")
    zig("linux-musl", "-static", "-I.", "-o", "classify", main, "net.c", "-lm", "-lpthread", folder=tmp_path)
    printed = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    best = [(int(k), float(score)) for k, score in (row.split() for row in printed)]
    scores = model(example)[0].detach().sort(descending=True)
    assert [k for k, _ in best] == scores.indices.tolist()
    np.testing.assert_allclose([s for _, s in best], scores.values, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not SYSROOT.exists(), reason=f"no C library in {SYSROOT}; `apt-get install libc6-arm64-cross`")
def test_the_very_library_of_a_saved_artifact_runs(tmp_path):
    """The tests above link statically, which asks for no C library of the other system; artifacts hold this."""
    example = torch.randn(NETWORKS["digits_cnn"], generator=torch.Generator().manual_seed(1))
    model = _pruned("digits_cnn", example, "4x1", 0.25)
    engine = ms.compile(model, example, target="neon")
    graph = from_torch(model, (example,), {})
    units = [unit(lower(optimize(graph.graph), NEON, 1))]
    assert emit(units, NEON, 1, Seal.of(engine.manifest, engine._artifact.weights)) == engine.c_source
    (tmp_path / "net.so").write_bytes(engine._artifact.library)
    driver = str(Path(__file__).with_name("driver.c"))
    zig("linux-gnu.2.28", nets(units), "-Wl,-rpath,.", "-o", "driver", driver, "./net.so", folder=tmp_path)
    command = [*emulator(), *([] if architecture() == "aarch64" else ["-L", str(SYSROOT)]), "./driver"]
    inputs = random_inputs(graph.graph)
    (rounds,) = run_driver(command, units, [list(inputs.values())], tmp_path)
    for answer in rounds:
        compare("the artifact's library", graph.graph, inputs, answer, torch_answers(model, graph, inputs))
