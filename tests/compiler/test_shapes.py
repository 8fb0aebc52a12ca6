"""Several shapes in one engine: the answers of single engines bit by bit, one copy of the weights, others refused."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import monstera as ms
from monstera.compiler.frontends import from_torch
from monstera.compiler.lowering import lower_with
from monstera.compiler.passes import optimize
from monstera.compiler.program import Program
from monstera.compiler.targets import TARGETS
from monstera.compiler.undeclared import CompiledAnew
from monstera.runtime import ArtifactError
from monstera.zoo.bert import BertEncoder
from runtime.forging import forged, parts_of

SOURCES = str(Path(ms.__file__).parents[1])


class Tokens(nn.Module):
    """A small BERT with its table of words and a table of places, whose rows are as many as there are words."""

    def __init__(self, features: int = 32) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, features), nn.Embedding(64, features)
        self.encoder = BertEncoder(2, features, 4, 2 * features)

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        places = torch.arange(ids.shape[1])
        return {"states": self.encoder(self.words(ids) + self.places(places))}


def pruned(model: nn.Module, pattern: str = "4x1", density: float = 0.25) -> nn.Module:
    ms.prune(model.eval(), ms.Plan.uniform(model, pattern, density, skip=()))
    return model


@pytest.fixture(scope="module")
def tokens() -> nn.Module:
    torch.manual_seed(0)
    return pruned(Tokens())


@pytest.fixture(scope="module")
def ids() -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [torch.randint(0, 50, (1, length), generator=rng) for length in (37, 9, 64)]


@pytest.fixture(scope="module")
def engine(tokens, ids) -> ms.Engine:
    return ms.compile(tokens, ids[0], also=ids[1:])


@pytest.fixture(scope="module")
def artifact(engine, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("shapes") / "net.monstera"
    engine.save(path)
    return path.read_bytes()


def leaves(answer: Any) -> list[torch.Tensor]:
    items = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, tuple) else ()
    return [answer] if isinstance(answer, torch.Tensor) else [leaf for item in items for leaf in leaves(item)]


def agree(model: nn.Module, examples: list[Any], threads: int = 1) -> ms.Engine:
    """An engine of all examples gives what an engine of each alone gives, and what torch gives."""
    both = ms.compile(model, examples[0], also=examples[1:], threads=threads)
    for example in (*examples, examples[0]):
        call = example if isinstance(example, tuple) else (example,)
        ours, alone = leaves(both(*call)), leaves(ms.compile(model, example, threads=threads)(*call))
        with torch.no_grad():
            theirs = leaves(model(*call))
        for a, b, c in zip(ours, alone, theirs, strict=True):
            assert torch.equal(a, b)
            torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-4)
    return both


def test_lengths_of_a_transformer_answer_as_single_engines(tokens, ids):
    both = agree(tokens, ids)
    assert both.shapes == ({"ids": (1, 37)}, {"ids": (1, 9)}, {"ids": (1, 64)})
    assert both.manifest.tap_bytes > 0


def test_single_rows_over_tokens_answer_as_single_engines(ids):
    torch.manual_seed(2)
    agree(pruned(Tokens(), "unstructured", 0.3), ids[:2])


def test_picture_sizes_of_a_cnn_answer_as_single_engines_on_two_threads():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(24, 24, 3, padding=1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)]
    model = pruned(nn.Sequential(*layers))
    both = agree(model, [torch.randn(1, 3, 31, 29), torch.randn(2, 3, 19, 44)], threads=2)
    assert both.manifest.threads == 2


def test_lengths_of_recurrent_layers_answer_as_single_engines():
    torch.manual_seed(0)
    gru = pruned(nn.GRU(12, 32, num_layers=2, bidirectional=True))
    agree(gru, [(torch.randn(n, 1, 12), torch.zeros(4, 1, 32)) for n in (17, 5)])
    agree(nn.LSTM(12, 16, batch_first=True).eval(), [torch.randn(2, n, 12) for n in (6, 11)])


def test_an_onnx_model_runs_at_every_declared_shape(tmp_path):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 4, 3)).eval()
    shapes = ({2: torch.export.Dim("n")},)
    torch.onnx.export(model, (torch.zeros(1, 3, 12),), tmp_path / "n.onnx", dynamic_shapes=shapes)
    a, b = torch.randn(1, 3, 12), torch.randn(1, 3, 33)
    engine = ms.compile(tmp_path / "n.onnx", a, also=[b], undeclared="compile")
    for x in (a, b, torch.randn(1, 3, 20)):
        torch.testing.assert_close(engine(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["avx512", "avx2"])
def test_a_later_shape_cuts_rows_as_the_first_though_it_would_choose_otherwise(target):
    torch.manual_seed(0)
    layer = pruned(nn.Conv2d(16, 36, 3))
    with torch.no_grad():
        layer.weight[30:] = torch.randn(6, 16, 3, 3) * (torch.rand(6, 16, 3, 3) < 0.1)
    graphs = [optimize(from_torch(layer, (torch.zeros(1, 16, n, n),)).graph) for n in (4, 40)]
    first, alone = (lower_with(graph, TARGETS[target], 1, {}) for graph in graphs)
    later = lower_with(graphs[1], TARGETS[target], 1, {}, cuts=first.cuts)
    assert blocks_of(alone.program) != blocks_of(first.program)
    assert blocks_of(later.program) == blocks_of(first.program)
    assert not later.cases.keys() & alone.cases.keys(), "tuning would take one for the other"
    weights = {name for name, table in first.program.tables.items() if table.dtype == np.float32}
    assert weights == {name for name, table in later.program.tables.items() if table.dtype == np.float32}


def blocks_of(program: Program) -> list[tuple[int, int]]:
    return [(part.size, part.blocks) for step in program.steps for part in step.work.packing]


@pytest.mark.parametrize("pattern", ["4x1", "unstructured"])
def test_three_lengths_take_little_more_than_one(pattern, tmp_path):
    torch.manual_seed(0)
    model = pruned(BertEncoder(1, 256, 4, 1024), pattern, 0.1)
    examples = [torch.randn(1, length, 256) for length in (32, 64, 17)]
    sizes = []
    for also in ([], examples[1:]):
        ms.compile(model, examples[0], also=also).save(tmp_path / "net.monstera")
        sizes.append((tmp_path / "net.monstera").stat().st_size)
    assert sizes[1] < 1.15 * sizes[0]


def test_a_saved_engine_runs_every_length_without_torch(artifact, engine, ids, tmp_path):
    (tmp_path / "net.monstera").write_bytes(artifact)
    for i, x in enumerate(ids):
        np.save(tmp_path / f"{i}.npy", x.numpy())
        np.save(tmp_path / f"{i}.answer.npy", engine(x.numpy())["states"])
    script = """
import sys
sys.modules["torch"] = None
import numpy as np, monstera
engine = monstera.load("net.monstera")
for i in (0, 1, 2, 0):
    assert np.array_equal(engine(np.load(f"{i}.npy"))["states"], np.load(f"{i}.answer.npy"))
try:
    engine(np.zeros((1, 10), np.int64))
except ValueError as error:
    assert "got ids [1, 10]; the engine was compiled for these shapes: ids [1, 37]; ids [1, 9]; ids [1, 64]: " in str(
        error
    )
else:
    raise AssertionError
"""
    command = [sys.executable, "-c", script]
    environment = {"PATH": "", "CC": "none", "PYTHONPATH": SOURCES}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_rebuilt_file_is_the_same_file(artifact, engine, tokens, ids, tmp_path):
    path = tmp_path / "net.monstera"
    path.write_bytes(artifact)
    assert ms.load(path, rebuild=True).digest == engine.digest
    ms.compile(tokens, ids[0], also=ids[1:]).save(path)
    assert path.read_bytes() == artifact


def test_other_shapes_and_types_are_refused_with_what_there_is(engine):
    with pytest.raises(ValueError, match=r"got ids \[2, 9\]; .*: ids \[1, 37\]; ids \[1, 9\]; ids \[1, 64\]: compile"):
        engine(torch.zeros(2, 9, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"torch\.float32; expected int64"):
        engine(torch.zeros(2, 9))
    with pytest.raises(TypeError, match=r"list.*torch tensor or a numpy array"):
        engine([1, 2])
    with pytest.raises(ValueError, match="holds 50 at"):
        engine(torch.full((1, 9), 50))


@pytest.mark.parametrize(
    ("also", "words"),
    [
        ([torch.zeros(1, 3)], r"also\[0\] has the shapes of another example: input \[1, 3\]"),
        ([torch.zeros(2, 3), torch.zeros(2, 3)], r"also\[1\] has the shapes of another"),
    ],
)
def test_examples_that_do_not_fit_each_other_are_refused(also, words):
    with pytest.raises(ValueError, match=words):
        ms.compile(nn.ReLU().eval(), torch.zeros(1, 3), also=also)


def test_examples_of_other_inputs_are_refused_with_both():
    words, others = (torch.zeros(1, n, dtype=dtype) for n, dtype in ((3, torch.int64), (9, torch.int32)))
    with pytest.raises(ValueError, match=r"also\[0\] has the inputs input \[1, 9\] int32, .*int64: they may differ"):
        ms.compile(nn.Embedding(5, 8).eval(), words, also=[others])


def test_profile_plan_and_memory_speak_of_the_shape_that_is_asked_for(engine, ids):
    works = [sum(p.macs for p in engine.profile(rounds=1, shape=i).layers) for i in range(3)]
    assert works[1] < works[0] < works[2]
    assert sum(p.macs for p in engine.profile(ids[1], rounds=1).layers) == works[1]
    plans = [engine.plan(engine.profile(rounds=1, shape=i), shape=i) for i in range(3)]
    assert len({plan.total.stored for plan in plans}) == 1
    assert plans[1].total.predicted_ms < plans[2].total.predicted_ms
    with pytest.raises(ValueError, match="shape is 3; this engine has the shapes 0 to 2"):
        engine.profile(shape=3)
    manifest = engine.manifest
    assert engine.memory.arena_bytes == 4 * max(p.arena_floats for p in manifest.programs)
    assert engine.memory.weight_bytes == manifest.weight_bytes + manifest.tap_bytes


def test_many_threads_at_different_lengths_get_the_right_answers(engine, ids):
    expected = [engine(x)["states"] for x in ids]
    wrong = []

    def call(i: int) -> None:
        wrong.extend(k for k in range(30) if not torch.equal(engine(ids[(i + k) % 3])["states"], expected[(i + k) % 3]))

    run_together([threading.Thread(target=call, args=(i,)) for i in range(4)])
    assert not wrong


def run_together(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_an_undeclared_shape_is_compiled_once_for_all_threads_and_said(tokens, ids, caplog):
    engine = ms.compile(tokens, ids[0], undeclared="compile")
    x = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(3))
    answers = []
    with caplog.at_level(logging.WARNING, "monstera"):
        run_together([threading.Thread(target=lambda: answers.append(engine(x)["states"])) for _ in range(4)])
        engine(x.numpy())
    alone = ms.compile(tokens, x)(x)["states"]
    assert len(answers) == 4
    assert all(torch.equal(answer, alone) for answer in answers)
    said = [record.getMessage() for record in caplog.records if record.name == "monstera"]
    assert said[0] == "compiling for ids [2, 12], which no example declared"
    assert len(said) == 2
    assert engine.profile(x, rounds=1).layers
    assert engine.shapes == ({"ids": (1, 37)},)
    with pytest.raises(TypeError, match="expected int64"):
        engine(torch.zeros(2, 5))


def test_keyword_arguments_of_undeclared_shapes_are_passed_on_by_name():
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
            return x * scale

    engine = ms.compile(Scaled().eval(), {"x": torch.zeros(2, 3), "scale": torch.zeros(2, 1)}, undeclared="compile")
    x, scale = torch.randn(4, 5), torch.randn(4, 1)
    assert torch.equal(engine(x, scale=scale), x * scale)


def test_a_model_that_has_changed_is_not_mixed_with_what_it_was():
    layer = nn.Linear(4, 3).eval()
    engine = ms.compile(layer, torch.zeros(2, 4), undeclared="compile")
    layer.weight.data[0, 0] = 7
    engine(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="the model has changed since its engine was compiled"):
        engine(torch.zeros(5, 4))


def test_a_forked_child_compiles_even_if_its_parent_was_compiling():
    layer = nn.Linear(4, 3).eval()
    engine = ms.compile(layer, torch.zeros(2, 4), undeclared="compile")
    assert isinstance(engine._compile_anew, CompiledAnew)
    with engine._compile_anew._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if engine(torch.zeros(5, 4)).shape == (5, 3) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_ways_with_undeclared_shapes_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="undeclared is 'maybe'; expected one of 'refuse', 'compile'"):
        ms.compile(nn.ReLU().eval(), torch.zeros(2), undeclared="maybe")  # pyright: ignore
    for more in ({"also": [torch.zeros(3)]}, {"undeclared": "compile"}):
        with pytest.raises(ValueError, match='fallback="torch" takes one shape'):
            ms.compile(nn.ELU().eval(), torch.zeros(2), fallback="torch", **more)


def _programs(artifact: bytes) -> list[dict[str, Any]]:
    return json.loads(parts_of(artifact)["manifest.json"])["programs"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.pop(), "built for other manifest"),
        (lambda p: p.clear(), "it has no program"),
        (lambda p: p.append(p[0]), "two of its programs take inputs of the same shapes"),
        (
            lambda p: p.append({**p[2], "inputs": [{**p[2]["inputs"][0], "shape": [1, 8]}]}),
            "cannot be loaded.*net4_run",
        ),
        (lambda p: p.reverse(), "do not belong together"),
        (lambda p: p[1]["inputs"][0].update(shape=[1, 8]), "built for other manifest"),
        (lambda p: p[1]["inputs"][0].update(name="other"), "differ in more than their shapes"),
        (lambda p: p[1]["inputs"][0].update(dtype="int32"), "differ in more than their shapes"),
        (lambda p: p[2].update(arena_floats=64), "do not belong together: arena_floats"),
        (lambda p: p[2].update(output={"kind": "value", "index": 7}), "the output tree names output 7"),
        (lambda p: p[2]["outputs"].append([1]), "do not belong together: outputs"),
    ],
)
def test_a_manifest_that_lies_about_one_of_the_programs_is_refused(artifact, tmp_path, change, words):
    programs = _programs(artifact)
    change(programs)
    (tmp_path / "net.monstera").write_bytes(forged(artifact, {"programs": programs}))
    with pytest.raises(ArtifactError, match=words):
        ms.load(tmp_path / "net.monstera")


@pytest.mark.parametrize("size", [0, 64, 2**20, 2**47])
def test_room_for_tables_that_is_not_what_the_library_was_built_for_is_refused_before_any_is_made(
    artifact, tmp_path, size
):
    (tmp_path / "net.monstera").write_bytes(forged(artifact, {"tap_bytes": size}))
    with pytest.raises(ArtifactError, match=r"built for other manifest|no memory for \d+ bytes of tables"):
        ms.load(tmp_path / "net.monstera")


def test_graphs_that_are_not_those_of_the_programs_are_not_rebuilt(artifact, tmp_path):
    raw = json.loads(parts_of(artifact)["graph.json"])
    for graphs in (raw["graphs"][:2], raw["graphs"][::-1]):
        text = json.dumps({"graphs": graphs}, sort_keys=True, indent=1).encode()
        (tmp_path / "net.monstera").write_bytes(forged(artifact, graph_json=text))
        with pytest.raises(
            ArtifactError, match=r"2 graphs for the 3 programs|other shapes|do not belong together|left"
        ):
            ms.load(tmp_path / "net.monstera", rebuild=True)


def test_tuning_times_every_shape_and_keeps_the_weights_in_common(tmp_path):
    torch.manual_seed(0)
    layer = pruned(nn.Conv2d(8, 16, 3), "4x1", 0.5)
    a, b = torch.randn(1, 8, 9, 40), torch.randn(1, 8, 12, 20)
    tuned = ms.compile(layer, a, also=[b], tune="fast")
    assert len(tuned.manifest.tuning) == 2
    for x in (a, b):
        torch.testing.assert_close(tuned(x), layer(x), rtol=1e-4, atol=1e-5)
    tuned.save(tmp_path / "net.monstera")
    assert ms.load(tmp_path / "net.monstera", rebuild=True).digest == tuned.digest
    blocks = [[part.blocks for step in p.layers for part in step.packing] for p in tuned.manifest.programs]
    assert blocks[0] == blocks[1]
