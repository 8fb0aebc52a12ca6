"""`docs/artifact.md` is true: its tables name the fields there are, and a reader made from its words reads a file."""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import monstera as ms
from monstera.compiler import graph_file
from monstera.compiler.emit import ABI
from monstera.runtime import artifact as artifact_room
from monstera.runtime import manifest as manifest_room
from monstera.runtime.tensors import _NAMES

PAGE = (Path(__file__).parents[2] / "docs" / "artifact.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[str]:
    """The first cells of the first table below a heading."""
    section = PAGE.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    table = re.search(r"\|---\|.*?\n((?:\|.*\n)+)", section)
    assert table is not None
    return [line.split("|")[1].strip().strip("`") for line in table[1].splitlines()]


@pytest.mark.parametrize(
    "record",
    [
        manifest_room.Manifest,
        manifest_room.ProgramSpec,
        manifest_room.InputSpec,
        manifest_room.LayerSpec,
        manifest_room.PackingSpec,
        graph_file.GraphsRecord,
        graph_file.GraphRecord,
        graph_file.InputRecord,
        graph_file.NodeRecord,
        graph_file.ParamRecord,
    ],
)
def test_the_page_lists_the_fields_of_a_record(record):
    assert rows(f"### `{record.__name__}`") == [f.name for f in dataclasses.fields(record)]


def test_the_page_says_parts_versions_types_and_depth_as_they_are():
    assert rows("## The container") == list(artifact_room.PARTS)
    assert f"`version` is {manifest_room.VERSION};" in PAGE
    assert f"version of the C interface (below), {ABI} " in PAGE
    assert "Types are F32, I32, U16, U8 and I64." in PAGE
    assert set(_NAMES.values()) == {"F32", "I32", "U16", "U8", "I64"}
    assert f"At most {manifest_room._DEEPEST} deep." in PAGE


def container(data: bytes) -> dict[str, bytes]:
    """The parts, by the page's section on the container."""
    parts, at = {}, 0
    for name in rows("## The container"):
        head = struct.pack("<4s5H", b"PK\3\4", 45, 0, 0, 0, 33)
        assert data[at : at + 14] == head
        crc, *rest = struct.unpack("<III2H", data[at + 14 : at + 30])
        assert rest == [0xFFFFFFFF, 0xFFFFFFFF, len(name), 20]
        assert data[at + 30 : at + 30 + len(name)] == name.encode()
        at += 30 + len(name)
        assert struct.unpack("<2H", data[at : at + 4]) == (1, 16)
        size, again = struct.unpack("<2Q", data[at + 4 : at + 20])
        assert size == again
        parts[name] = data[at + 20 : at + 20 + size]
        assert zlib.crc32(parts[name]) == crc
        at += 20 + size
    assert len(data) - at == sum(46 + len(name) + 28 for name in parts) + 56 + 20 + 22
    return parts


def safetensors(data: bytes) -> dict[str, np.ndarray]:
    """The tables, by the page's section on safetensors."""
    (length,) = struct.unpack("<Q", data[:8])
    assert (8 + length) % 64 == 0
    dtypes = {"F32": "<f4", "I32": "<i4", "U16": "<u2", "U8": "u1", "I64": "<i8"}
    tables, end = {}, 0
    for name, entry in json.loads(data[8 : 8 + length]).items():
        begin, past = entry["data_offsets"]
        assert begin == end
        assert past % 64 == 0
        tables[name] = np.frombuffer(data[8 + length + begin : 8 + length + past], dtypes[entry["dtype"]])
        assert [tables[name].size] == entry["shape"]
        end = past
    assert 8 + length + end == len(data)
    return tables


@pytest.fixture(scope="module")
def layer() -> torch.nn.Linear:
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 8).eval()
    ms.prune(layer, ms.Plan({"weight": ("4x1", 0.25)}))
    return layer


@pytest.fixture(scope="module")
def parts(layer, tmp_path_factory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("page") / "net.monstera"
    ms.compile(layer, torch.zeros(3, 24)).save(path)
    return container(path.read_bytes())


def test_every_checksum_digest_and_seal_is_what_the_page_says(parts, tmp_path):
    manifest = json.loads(parts["manifest.json"])
    assert manifest["sha256"] == {n: hashlib.sha256(d).hexdigest() for n, d in parts.items() if n != "manifest.json"}
    assert json.dumps(manifest, sort_keys=True, indent=1).encode() == parts["manifest.json"]
    assert set(manifest) == {"format", "version", *rows("### `Manifest`")}
    bare = json.dumps(manifest | {"sha256": {}}, sort_keys=True, indent=1).encode()
    (tmp_path / "net.so").write_bytes(parts["net.so"])
    library = ctypes.CDLL(str(tmp_path / "net.so"))
    for name in rows("## The C interface"):
        assert getattr(library, name)
    library.net_seal.restype = ctypes.c_char_p
    weights = hashlib.sha256(parts["weights.safetensors"]).hexdigest()
    assert library.net_seal().decode() == f"{hashlib.sha256(bare).hexdigest()} {weights}"
    described = (ctypes.c_int64 * 7)()
    library.net_describe(described)
    (program,) = manifest["programs"]
    counted = [len(program[name]) for name in ("inputs", "outputs", "layers")]
    sizes = [manifest["abi"], program["arena_floats"], manifest["weight_bytes"]]
    assert list(described) == [*sizes, *counted, manifest["threads"]]
    assert manifest["tap_bytes"] == 0
    assert not hasattr(library, "net_load_taps")
    assert sum(t.nbytes for t in safetensors(parts["weights.safetensors"]).values()) == manifest["weight_bytes"]


def test_the_network_can_be_read_off_the_graph_by_the_pages_words_alone(parts, layer):
    (graph,), tables = json.loads(parts["graph.json"])["graphs"], safetensors(parts["graph.safetensors"])
    params = {}
    for record in graph["params"]:
        i = record["table"]
        size, stored = int(np.prod(record["shape"])), tables[str(i)]
        if record["sparse"]:
            there = np.unpackbits(tables[f"{i}.bits"], bitorder="little")[:size].astype(bool)
            params[record["key"]] = np.zeros(size, np.float32)
            params[record["key"]][there] = stored[: there.sum()]
        else:
            params[record["key"]] = stored[:size]
        params[record["key"]] = params[record["key"]].reshape(record["shape"])
    assert any(record["sparse"] for record in graph["params"])
    (node,) = graph["nodes"]
    assert (node["op"], node["inputs"], graph["outputs"]) == ("Linear", [graph["inputs"][0]["name"]], [node["name"]])
    assert np.array_equal(params[node["fields"]["weight"]], layer.weight.detach().numpy())
    assert np.array_equal(params[node["fields"]["bias"]], layer.bias.detach().numpy())


def test_a_rebuilt_program_has_the_digest_of_its_file(layer, tmp_path):
    engine = ms.compile(layer, torch.zeros(3, 24))
    engine.save(tmp_path / "net.monstera")
    assert ms.load(tmp_path / "net.monstera", rebuild=True).digest == engine.digest
