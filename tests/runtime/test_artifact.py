"""Artifacts: load without torch or compiler, same bytes for the same engine, refused when damaged or forged."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickletools
import random
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import monstera as ms
from monstera.runtime import ArtifactError, read_artifact
from monstera.runtime import artifact as artifact_room
from monstera.runtime.artifact import PARTS
from runtime.forging import forged, joined, parts_of

SOURCES = str(Path(ms.__file__).parents[1])


@pytest.fixture
def load(tmp_path):
    """Write bytes into a file and load it."""

    def load(data: bytes, **options: object) -> ms.Engine:
        (tmp_path / "net.monstera").write_bytes(data)
        return ms.load(tmp_path / "net.monstera", **options)

    return load


def test_a_loaded_engine_gives_the_same_answer_bit_by_bit(engine, artifact, example, load):
    loaded = load(artifact)
    assert torch.equal(loaded(**example)["maps"][1], engine(**example)["maps"][1])
    assert loaded.manifest.layers == engine.manifest.layers


@pytest.mark.parametrize("options", ["", ", sha256=sys.argv[1]"])
def test_it_loads_and_runs_where_torch_and_the_compiler_are_absent(artifact, engine, tmp_path, options):
    (tmp_path / "net.monstera").write_bytes(artifact)
    script = f"""
import sys
sys.modules["torch"] = None  # importing it raises
import numpy as np
import monstera
engine = monstera.load("net.monstera"{options})
rng = np.random.default_rng(0)
answer = engine(rng.random((2, 3, 9, 7), np.float32), features=rng.random((2, 5), np.float32))
assert answer["scale"].shape == (2, 8) and 0 < answer["scale"].min() < answer["scale"].max() < 1
assert sys.modules["torch"] is None and "yaml" not in sys.modules and "pydantic" not in sys.modules
assert not any(name.startswith("monstera.compiler") for name in sys.modules)
"""
    empty = {"PATH": "", "CC": "none", "PYTHONPATH": SOURCES}
    command = [sys.executable, "-c", script, engine.digest]
    done = subprocess.run(command, cwd=tmp_path, env=empty, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_rebuilding_without_torch_is_refused_with_what_it_takes(artifact, tmp_path):
    (tmp_path / "net.monstera").write_bytes(artifact)
    script = "import sys; sys.modules['torch'] = None; import monstera; monstera.load('net.monstera', rebuild=True)"
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ArtifactError: net.monstera: rebuild=True generates the code anew, which takes" in done.stderr


def test_the_same_engine_gives_the_same_bytes(model, example, artifact, tmp_path):
    ms.compile(model, example).save(tmp_path / "again.monstera")
    assert (tmp_path / "again.monstera").read_bytes() == artifact


def test_processes_that_hash_differently_and_build_anew_give_the_same_bytes(tmp_path):
    script = """
import sys, torch
import monstera as ms
torch.manual_seed(0)
layers = torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3)
model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.LazyLinear(5)).eval()
model(torch.zeros(1, 3, 11, 12))
ms.prune(model, ms.Plan({"3.weight": ("4x1", 0.25)}))
ms.compile(model, torch.zeros(1, 3, 11, 12), threads=2).save(sys.argv[1])
"""
    for seed in ("1", "2"):
        environment = {"PYTHONPATH": SOURCES, "PYTHONHASHSEED": seed, "MONSTERA_CACHE": str(tmp_path / seed)}
        command = [sys.executable, "-c", script, f"{seed}.monstera"]
        done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "1.monstera").read_bytes() == (tmp_path / "2.monstera").read_bytes()


def test_a_loaded_engine_saves_the_same_file_even_if_the_first_is_gone(artifact, tmp_path):
    (tmp_path / "net.monstera").write_bytes(artifact)
    loaded = ms.load(tmp_path / "net.monstera")
    (tmp_path / "net.monstera").unlink()
    loaded.save(tmp_path / "again.monstera")
    assert (tmp_path / "again.monstera").read_bytes() == artifact


def test_a_file_that_changed_under_a_loaded_engine_is_not_saved_as_if_it_had_not(artifact, tmp_path):
    path = tmp_path / "net.monstera"
    path.write_bytes(artifact)
    loaded = ms.load(path)
    with path.open("r+b") as file:
        file.truncate(len(artifact) // 2)
    with pytest.raises(ArtifactError, match=r"graph\.safetensors cannot be read: it ended"):
        loaded.save(tmp_path / "again.monstera")


def test_no_part_is_a_pickle_and_the_weights_are_plain_safetensors(artifact, tmp_path):
    from safetensors.numpy import load_file

    parts = parts_of(artifact)
    for name in ("weights.safetensors", "graph.safetensors"):
        (tmp_path / name).write_bytes(parts[name])
        assert load_file(tmp_path / name)
    for data in parts.values():
        with pytest.raises(ValueError, match=r"opcode|pickle|exhausted|no newline|expected"):
            list(pickletools.genops(data))


def test_any_damage_is_refused_and_none_is_a_crash(artifact, tmp_path):
    """Every bit of the file counts: there is none that a load would not see, but those of the graph's parameters."""
    rng = random.Random(0)
    path = tmp_path / "bad.monstera"
    where = parts_of(artifact)
    kept = artifact.index(where["graph.safetensors"])
    for i in range(60):
        data = bytearray(artifact)
        if i % 3 == 0:
            data = data[: rng.randrange(len(data))]
        elif i % 3 == 1:
            data[rng.randrange(kept)] ^= 1 << rng.randrange(8)
        else:
            data[rng.randrange(kept + len(where["graph.safetensors"]), len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        with pytest.raises(ArtifactError):
            ms.load(path)


@pytest.mark.parametrize("name", ["weights.safetensors", "net.c", "net.so", "graph.json"])
def test_a_damaged_part_is_named(artifact, load, name):
    parts = parts_of(artifact)
    data = bytearray(parts[name])
    data[len(data) // 2] ^= 1
    with pytest.raises(ArtifactError, match=f"{name} is damaged"):
        load(joined(parts | {name: bytes(data)}))


@pytest.mark.parametrize("name", PARTS)
def test_a_crc_that_is_not_the_part_s_is_refused_though_header_and_directory_agree(artifact, load, name, tmp_path):
    """Such a file differs from what Monstera writes in bits that no SHA-256 covers."""
    crc = zlib.crc32(parts_of(artifact)[name]).to_bytes(4, "little")
    assert artifact.count(crc) == 2
    changed = artifact.replace(crc, bytes([crc[0] ^ 1]) + crc[1:])
    with pytest.raises(ArtifactError, match=r"the CRC-32 of the \d+ bytes from \d+ on is not"):
        load(changed).save(tmp_path / "again.monstera")


def test_damaged_parameters_of_the_graph_are_found_when_they_are_used(artifact, load, tmp_path):
    parts = parts_of(artifact)
    data = bytearray(parts["graph.safetensors"])
    data[-100] ^= 1
    damaged = joined(parts | {"graph.safetensors": bytes(data)})
    loaded = load(damaged)
    with pytest.raises(ArtifactError, match=r"graph\.safetensors is damaged"):
        loaded.save(tmp_path / "again.monstera")
    with pytest.raises(ArtifactError, match=r"graph\.safetensors is damaged"):
        load(damaged, rebuild=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 999}, "version 999, this Monstera reads 4: update Monstera"),
        ({"version": 3}, "version 3, this Monstera reads 4: compile the model again"),
        ({"version": "3"}, "version '3'"),
        ({"version": True}, "version True"),
        ({"format": "other"}, "not a Monstera artifact"),
        ({"platform": "linux-s390x"}, "made for .*needs linux-s390x and this machine is"),
        ({"features": ["avx9000"]}, "lacks avx9000"),
        ({"flags": [1]}, r"manifest is damaged: manifest\.flags\[0\] is 1, expected str"),
        ({"arena_floats": 64}, "do not belong together.*arena_floats"),
        (
            {"arena_floats": 2**60},
            r"manifest\.programs\[0\]\.arena_floats is 1152921504606846976, expected a whole number",
        ),
        ({"arena_floats": -64}, "arena_floats is -64, expected a count"),
        ({"arena_floats": 64.0}, r"arena_floats is 64\.0, expected a whole number"),
        ({"weight_bytes": 64}, "do not belong together"),
        ({"inputs": []}, "do not belong together.*inputs"),
        ({"outputs": [[-1]]}, r"manifest is damaged: \[-1\] is not a shape"),
        ({"outputs": [["a"]]}, "manifest is damaged"),
        ({"output": {"kind": "value", "index": 7}}, "manifest is damaged.*output 7"),
        ({"output": {"kind": "value", "index": True}}, "manifest is damaged.*output True"),
        ({"output": {"kind": "namedtuple", "name": "a b", "keys": [], "items": []}}, "name that Python refuses"),
        ({"output": {"kind": "dict", "keys": ["a", "a"], "items": [{"kind": "constant", "value": 1}] * 2}}, "fit"),
        ({"layers": 5}, "manifest is damaged"),
        ({"target": "\x1b[31m"}, "is not the name of a target"),
        ({"threads": 0}, "threads is 0, expected 1 to 64"),
        ({"threads": 2}, "do not belong together"),
        ({"more": 1}, "expected an object with"),
        ({"target": "else"}, "the library was built for other manifest"),
        ({"sha256": {}}, "it has checksums of"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(artifact, load, changes, words):
    with pytest.raises(ArtifactError, match=words):
        load(forged(artifact, changes))


@pytest.mark.parametrize("field", ["shape", "dtype", "name"])
def test_a_manifest_that_lies_about_an_input_is_refused_though_the_counts_are_right(artifact, load, field):
    inputs = json.loads(parts_of(artifact)["manifest.json"])["programs"][0]["inputs"]
    inputs[0][field] = {"shape": [2, 3, 9, 1], "dtype": "int32", "name": "picture"}[field]
    with pytest.raises(ArtifactError, match="the library was built for other manifest"):
        load(forged(artifact, {"inputs": inputs}))


def test_weights_that_the_library_was_not_built_for_are_refused(artifact, load):
    """Offsets lie in the weights: with others, the code would read anywhere."""
    weights = bytearray(parts_of(artifact)["weights.safetensors"])
    weights[-64:] = bytes(64)
    with pytest.raises(ArtifactError, match="the library was built for other weights"):
        load(forged(artifact, weights_safetensors=bytes(weights)))


def test_weights_of_another_size_are_refused_with_both_sizes(artifact, load):
    from monstera.runtime import pack_tensors

    few = pack_tensors({"a": np.zeros(16, np.float32)}).tobytes()
    with pytest.raises(ArtifactError, match=r"net\.monstera: library, weights .* bytes in the weights file 64, the"):
        load(forged(artifact, weights_safetensors=few))


def test_a_library_without_the_symbols_of_an_engine_is_refused(artifact, load):
    from monstera.compiler.build import build
    from monstera.compiler.targets import native

    empty = build("int nothing;", native()).read_bytes()
    with pytest.raises(ArtifactError, match=r"cannot be loaded.*net_run"):
        load(forged(artifact, net_so=empty))
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load(forged(artifact, net_so=b"\x7fELF" + bytes(100)))


def test_a_field_of_any_kind_may_not_nest_without_end(artifact, load):
    parts = parts_of(artifact)
    text = parts["manifest.json"].replace(b'"tuning": {}', b'"tuning": {"a": %b}' % (b"[" * 700 + b"]" * 700))
    assert text != parts["manifest.json"]
    with pytest.raises(ArtifactError, match="nests more than 200 deep"):
        load(joined(parts | {"manifest.json": text}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"format":"monstera","format":"monstera"}', "has a key twice"),
        (b"[" * 100_000, "nests more than 200 deep|not JSON"),
        (b"\xff", "not JSON"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b"", "not JSON"),
        (b"[]", "not a Monstera artifact"),
        (b"9" * 10_000, "not JSON"),
    ],
)
def test_a_manifest_that_is_no_strict_json_is_refused(artifact, load, text, words):
    with pytest.raises(ArtifactError, match=words):
        load(joined(parts_of(artifact) | {"manifest.json": text}))


def test_a_manifest_of_the_same_content_in_other_bytes_is_refused(artifact, load):
    """So that a digest names one file."""
    text = json.dumps(json.loads(parts_of(artifact)["manifest.json"])).encode()
    with pytest.raises(ArtifactError, match="not written as Monstera writes it"):
        load(joined(parts_of(artifact) | {"manifest.json": text}))


def _zipped(path: Path, parts: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path.read_bytes()


def test_foreign_files_are_refused(artifact, load, tmp_path):
    parts = parts_of(artifact)
    escaping = {("../escape" if name == "net.so" else name): data for name, data in parts.items()}
    for foreign in (
        b"",
        b"\x80\x04K\x01.",
        joined({"../escape": b"x"}),
        joined(escaping),
        joined(parts | {"more": b"x"}),
        joined(dict(reversed(parts.items()))),
        _zipped(tmp_path / "zip", parts),
        artifact + b"\0",
        b"\0" + artifact,
        artifact * 2,
    ):
        with pytest.raises(ArtifactError, match="not a Monstera artifact"):
            load(foreign)
    with pytest.raises(FileNotFoundError):
        ms.load(tmp_path / "absent")


def test_folders_and_pipes_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ArtifactError, match="not a regular file"):
            ms.load(path)


def test_a_part_that_claims_to_be_huge_asks_for_no_memory(artifact, load):
    data = bytearray(artifact)
    place = 30 + len("manifest.json") + 4
    data[place : place + 16] = (2**63).to_bytes(8, "little") * 2
    with pytest.raises(ArtifactError, match=r"cut short: 69 bytes from 92\d+ on, in \d+ bytes"):
        load(bytes(data))


def test_a_digest_names_the_file_and_another_file_is_refused(engine, artifact, model, example, load, tmp_path):
    assert engine.digest == hashlib.sha256(parts_of(artifact)["manifest.json"]).hexdigest()
    loaded = load(artifact, sha256=engine.digest.upper())
    assert loaded.digest == engine.digest
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.linear.bias[0] += 1
    other = ms.compile(changed, example)
    other.save(tmp_path / "other.monstera")
    assert other.digest != engine.digest
    with pytest.raises(ArtifactError, match=f"its digest .* is {other.digest}, expected {engine.digest}"):
        ms.load(tmp_path / "other.monstera", sha256=engine.digest)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        ms.load(tmp_path / "other.monstera", sha256="abc")


def test_with_a_digest_the_manifest_is_not_even_read_before_it_is_compared(artifact, load):
    with pytest.raises(ArtifactError, match="its digest"):
        load(joined(parts_of(artifact) | {"manifest.json": b"[" * 100_000}), sha256="0" * 64)


def test_a_rebuilt_engine_is_the_same_program(engine, artifact, example, load):
    rebuilt = load(artifact, rebuild=True)
    assert torch.equal(rebuilt(**example)["maps"][1], engine(**example)["maps"][1])
    assert rebuilt.c_source == engine.c_source
    assert rebuilt.digest == engine.digest


def test_rebuilding_uses_neither_library_nor_source_nor_packed_weights(engine, artifact, example, load):
    nothing = forged(artifact, net_so=b"", net_c=b"", weights_safetensors=b"")
    with pytest.raises(ArtifactError):
        load(nothing)
    rebuilt = load(nothing, rebuild=True)
    assert torch.equal(rebuilt(**example)["scale"], engine(**example)["scale"])
    assert rebuilt.digest == engine.digest


def test_rebuilding_keeps_the_choices_of_tuning(tmp_path):
    from monstera.compiler.tuning import table_of

    layer = torch.nn.Conv2d(4, 8, 3).eval()
    x = torch.randn(1, 4, 9, 40)
    plain = ms.compile(layer, x)
    tuned = ms.compile(layer, x, tune="fast")
    assert len(tuned.manifest.tuning) == 1
    (entry,) = tuned.manifest.tuning.values()
    table = table_of({key: {**entry, "tile": 1, "chunk": 1} for key in tuned.manifest.tuning})
    narrow = ms.compile(layer, x, tuning=table)
    assert narrow.c_source != plain.c_source
    narrow.save(tmp_path / "net.monstera")
    assert ms.load(tmp_path / "net.monstera", rebuild=True).c_source == narrow.c_source


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outputs": [[2, 8, 9, 7], [2, 8, 9, 7], [2, 9]]}, "other shapes than the manifest says"),
        ({"target": "sse2"}, "no target 'sse2'"),
        ({"tuning": {"a": {"tile": 1}}}, "the tuning is damaged"),
        ({"tuning": {"a": 5}}, "the tuning is damaged"),
        ({"output": {"kind": "value", "index": 1}}, "do not belong together: the output tree uses"),
    ],
)
def test_a_manifest_that_the_graph_does_not_fit_is_not_rebuilt(artifact, load, changes, words):
    with pytest.raises(ArtifactError, match=words):
        load(forged(artifact, changes), rebuild=True)


def test_a_dtype_that_kernels_do_not_read_is_not_rebuilt(artifact, load):
    inputs = json.loads(parts_of(artifact)["manifest.json"])["programs"][0]["inputs"]
    inputs[0]["dtype"] = "int8"
    with pytest.raises(ArtifactError, match="'int8' is no dtype of an input"):
        load(forged(artifact, {"inputs": inputs}), rebuild=True)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(engine, tmp_path, monkeypatch):
    path = tmp_path / "net.monstera"
    path.write_bytes(b"old")

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(artifact_room.os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        engine.save(path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["net.monstera"]


def test_weights_lie_on_a_line(artifact, tmp_path):
    (tmp_path / "net.monstera").write_bytes(artifact)
    weights = read_artifact(tmp_path / "net.monstera").weights
    assert weights.ctypes.data % 64 == 0
    assert weights.dtype == np.uint8
