"""Artifacts: load without torch or compiler, same bytes for the same engine, refused when damaged or foreign."""

from __future__ import annotations

import contextlib
import io
import json
import pickletools
import random
import subprocess
import sys
import zipfile

import pytest
import torch

import monstera as ms
from monstera.runtime import ArtifactError
from monstera.runtime import artifact as artifact_room


def _parts(artifact: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(artifact)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(parts: dict[str, bytes]) -> bytes:
    blob = io.BytesIO()
    with zipfile.ZipFile(blob, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return blob.getvalue()


def _with_manifest(artifact: bytes, **changes: object) -> bytes:
    parts = _parts(artifact)
    manifest = json.loads(parts["manifest.json"]) | changes
    return _zipped(parts | {"manifest.json": json.dumps(manifest).encode()})


def test_a_loaded_engine_gives_the_same_answer_bit_by_bit(engine, artifact, example, tmp_path):
    (tmp_path / "net.monstera").write_bytes(artifact)
    loaded = ms.load(tmp_path / "net.monstera")
    assert torch.equal(loaded(**example)["maps"][1], engine(**example)["maps"][1])
    assert loaded.manifest.layers == engine.manifest.layers


def test_it_loads_and_runs_where_torch_and_the_compiler_are_absent(artifact, tmp_path):
    (tmp_path / "net.monstera").write_bytes(artifact)
    script = """
import sys
sys.modules["torch"] = None  # importing it raises
import numpy as np
import monstera
engine = monstera.load("net.monstera")
rng = np.random.default_rng(0)
answer = engine(rng.random((2, 3, 9, 7), np.float32), features=rng.random((2, 5), np.float32))
assert answer["scale"].shape == (2, 8) and 0 < answer["scale"].min() < answer["scale"].max() < 1
assert sys.modules["torch"] is None and "yaml" not in sys.modules and "pydantic" not in sys.modules
"""
    empty = {"PATH": "", "CC": "none"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=empty, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_same_engine_gives_the_same_bytes(model, example, artifact, tmp_path):
    ms.compile(model, example).save(tmp_path / "again.monstera")
    assert (tmp_path / "again.monstera").read_bytes() == artifact


def test_no_part_is_a_pickle_and_the_weights_are_plain_safetensors(artifact, tmp_path):
    from safetensors.numpy import load_file

    parts = _parts(artifact)
    (tmp_path / "w.safetensors").write_bytes(parts["weights.safetensors"])
    assert load_file(tmp_path / "w.safetensors")
    for data in parts.values():
        with pytest.raises(ValueError, match=r"opcode|pickle|exhausted|no newline|expected"):
            list(pickletools.genops(data))


def test_any_damage_is_an_error_and_never_a_crash(artifact, example, tmp_path):
    rng = random.Random(0)
    path = tmp_path / "bad.monstera"
    survivors = 0
    for i in range(60):
        data = bytearray(artifact)
        if i % 3 == 0:
            data = data[: rng.randrange(len(data))]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        # A flipped bit in a field that the zip does not use (a date, say) leaves the artifact whole.
        with contextlib.suppress(ArtifactError):
            assert ms.load(path)(**example)["scale"].shape == (2, 8)
            survivors += 1
    assert survivors < 20


@pytest.mark.parametrize("name", ["weights.safetensors", "net.c", "net.so"])
def test_a_damaged_part_is_named(artifact, tmp_path, name):
    parts = _parts(artifact)
    data = bytearray(parts[name])
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.monstera").write_bytes(_zipped(parts | {name: bytes(data)}))
    with pytest.raises(ArtifactError, match=f"{name} is damaged"):
        ms.load(tmp_path / "bad.monstera")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 999}, "version 999"),
        ({"format": "other"}, "not a Monstera artifact"),
        ({"platform": "linux-s390x"}, "made for .*needs linux-s390x and this machine is"),
        ({"flags": [1]}, "manifest is damaged.*expected words"),
        ({"features": ["avx9000"]}, "lacks avx9000"),
        ({"arena_floats": 64}, "do not belong together.*arena_floats"),
        ({"weight_bytes": 64}, "do not belong together"),
        ({"inputs": []}, "do not belong together.*inputs"),
        ({"outputs": [[-1]]}, "manifest is damaged"),
        ({"output": {"kind": "value", "index": 7}}, "manifest is damaged.*output 7"),
        ({"layers": 5}, "manifest is damaged"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(artifact, tmp_path, changes, words):
    (tmp_path / "bad.monstera").write_bytes(_with_manifest(artifact, **changes))
    with pytest.raises(ArtifactError, match=words):
        ms.load(tmp_path / "bad.monstera")


def test_foreign_files_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"\x80\x04K\x01.")
    (tmp_path / "c").write_bytes(_zipped({"../escape": b"x"}))
    for name in "abc":
        with pytest.raises(ArtifactError, match="not a Monstera artifact"):
            ms.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        ms.load(tmp_path / "absent")


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
