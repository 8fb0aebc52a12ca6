"""Artifacts changed at random, by a seed: bytes as damage does, and parts as a forger does, with right checksums.

The library is never changed under right checksums: that is other code, and an artifact is code that one trusts.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monstera.runtime.strict_json import canonical_json
from runtime.forging import forged, joined, parts_of

NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    63,
    64,
    65,
    255,
    2**15,
    2**16 + 1,
    2**28,
    2**31 - 1,
    2**31,
    2**48,
    2**63,
    10**30,
    0.5,
    -0.0,
)
VALUES = (
    *NUMBERS,
    True,
    False,
    None,
    "",
    "value",
    "..",
    "\x00",
    "-inf",
    "nan",
    "*/",
    "relu",
    "clamp",
    [],
    {},
    [[]],
    [0],
)
TEXTS = (
    b'{"a":1,"a":2}',
    b"[" * 5000,
    b"NaN",
    b"\xff\xfe",
    b"",
    b"null",
    b'"' + b"x" * 5000 + b'"',
    b"1e999",
    b"9" * 5000,
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed file, what was changed, and whether it is to be built anew instead of loaded as it is."""

    data: bytes
    kind: str
    rebuild: bool


def mutant(corpus: Sequence[bytes], seed: int, number: int) -> tuple[int, Mutant]:
    """The mutant of this number and which program of the corpus it was made of; the same for equal arguments."""
    rng = random.Random(f"{seed} {number}")
    which = rng.randrange(len(corpus))
    kind = rng.choice(list(KINDS))
    data, other = corpus[which], rng.choice(corpus)
    changed = KINDS[kind](rng, data, other)
    # What the compiler reads is also compiled: these are the checks that lie deepest.
    rebuild = kind in COMPILED and rng.random() < COMPILED[kind]
    return which, Mutant(changed, kind, rebuild)


# Damage: checksums stay as they are ---------------------------------------------------------------------------------


def flipped(rng: random.Random, data: bytes, _other: bytes) -> bytes:
    """Some bits, near each other or not."""
    changed, place = bytearray(data), rng.randrange(len(data))
    near = rng.random() < 0.5
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        at = min(len(data) - 1, place + rng.randrange(16)) if near else rng.randrange(len(data))
        changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, data: bytes, _other: bytes) -> bytes:
    """A file that ends early, or begins late, or goes on."""
    at = rng.randrange(len(data))
    return rng.choice((data[:at], data[at:], data + rng.randbytes(at % 5000), data[: -(at % 200) or -1]))


def spliced(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A stretch replaced by another one, of this file or another, of the same length or not."""
    begin, source = rng.randrange(len(data)), rng.randrange(len(other))
    length = rng.choice((1, 8, 64, 512, 4096))
    kept = rng.choice((0, length, length, rng.randrange(2 * length)))
    return data[:begin] + other[source : source + length] + data[begin + kept :]


def lengths(rng: random.Random, data: bytes, _other: bytes) -> bytes:
    """A number that says how long something is or where it lies: in zip's records, or before safetensors' header."""
    marks = (b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"manifest.json", b"net.so", b'{"float32', b'{"0"')
    mark = rng.choice([m for m in marks if m in data])
    places = [i for i in range(len(data)) if data.startswith(mark, i)] if rng.random() < 0.5 else [data.find(mark)]
    at = max(0, min(len(data) - 8, rng.choice(places) + rng.randrange(-16, 80)))
    size = rng.choice((2, 4, 8))
    number = rng.choice([n for n in NUMBERS if isinstance(n, int)]) % 2 ** (8 * size)
    return data[:at] + number.to_bytes(size, "little") + data[at + size :]


# Forgery: checksums are right again -----------------------------------------------------------------------------------


def manifest_edited(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Fields of the manifest."""
    raw = json.loads(parts_of(data)["manifest.json"])
    theirs = json.loads(parts_of(other)["manifest.json"])
    sums = raw.pop("sha256") if rng.random() < 0.9 else None
    raw = _edited(rng, raw, theirs)
    if isinstance(raw, dict) and sums is not None:
        return forged(data, raw | {"sha256": sums} if rng.random() < 0.05 else raw)
    return joined(parts_of(data) | {"manifest.json": canonical_json(raw)})


def manifest_rewritten(rng: random.Random, data: bytes, _other: bytes) -> bytes:
    """Text that is no manifest, or hardly one."""
    parts = parts_of(data)
    text = parts["manifest.json"]
    at = rng.randrange(len(text))
    text = rng.choice((rng.choice(TEXTS), text[:at] + rng.choice(TEXTS) + text[at:], flipped(rng, text, text)))
    return joined(parts | {"manifest.json": text})


def graph_edited(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Nodes, shapes and fields of the graph."""
    raw = json.loads(parts_of(data)["graph.json"])
    theirs = json.loads(parts_of(other)["graph.json"])
    if rng.random() < 0.02:
        return forged(data, graph_json=rng.choice(TEXTS))
    return forged(data, graph_json=canonical_json(_edited(rng, raw, theirs)))


def graph_reshaped(rng: random.Random, data: bytes, _other: bytes) -> bytes:
    """A number of a node, with the shapes behind it made to follow: graphs as no frontend would ever give them."""
    whole = json.loads(parts_of(data)["graph.json"])
    # Of several the first, whose outputs are those that `forged` changes.
    raw = whole["graphs"][0]
    fields = [node["fields"] for node in raw["nodes"]]
    if holders := [(h, k) for h, k in _places(fields) if h is not None and type(h[k]) is int]:
        holder, key = rng.choice(holders)
        holder[key] += rng.choice((-1, 1, 2, -2, 5, 11))
    shapes = {i["name"]: i["shape"] for i in raw["inputs"]}
    params = {p["key"]: p["shape"] for p in raw["params"]}
    for node in raw["nodes"]:
        with contextlib.suppress(ZeroDivisionError, ValueError, IndexError, TypeError):
            node["shape"] = _shape_after(node, [shapes[i] for i in node["inputs"]], params)
        shapes[node["name"]] = node["shape"]
    outputs = [shapes[name] for name in raw["outputs"]]
    return forged(data, {"outputs": outputs}, graph_json=canonical_json(whole))


def _shape_after(node: dict[str, Any], inputs: list[list[int]], params: dict[str, list[int]]) -> list[int]:
    """The shape that a node has after a change, as far as that is easily said."""
    fields, shape, x = node["fields"], node["shape"], inputs[0] if inputs else []
    match node["op"]:
        case "Conv" | "MaxPool" | "AvgPool":
            kernel = fields.get("kernel") or params[fields["weight"]][2:]
            dilation, padding, rank = fields.get("dilation") or [1] * len(kernel), fields["padding"], len(kernel)
            sizes = zip(x[2:], kernel, fields["stride"], dilation, padding[:rank], padding[rank:], strict=True)
            after = [(n + a + b - (k - 1) * d - 1) // s + 1 for n, k, s, d, a, b in sizes]
            return [x[0], shape[1] if node["op"] == "Conv" else x[1], *after]
        case "Activate" | "Affine" | "Softmax":
            return x
        case "Add" | "Mul":
            return list(np.broadcast_shapes(*map(tuple, inputs)))
        case "Concat":
            return [sum(i[d] for i in inputs) if d == fields["dim"] else n for d, n in enumerate(x)]
        case "Permute":
            return [x[d] for d in fields["dims"]]
        case "DepthToSpace":
            grown = [n * b for n, b in zip(x[2:], fields["block"], strict=True)]
            return [x[0], x[1] // math.prod(fields["block"]), *grown]
        case "AdaptivePool" | "Upsample" | "Pad":
            return [*x[:2], *shape[2:]]
        case _:
            return shape


def tables_edited(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The header or the data of a safetensors file."""
    name = rng.choice(("graph.safetensors", "weights.safetensors"))
    blob = parts_of(data)[name]
    (length,) = struct.unpack("<Q", blob[:8])
    choice = rng.randrange(4)
    if choice == 0:
        blob = rng.choice((flipped, cut, spliced))(rng, blob, parts_of(other)[name])
    elif choice == 1:
        blob = rng.choice(NUMBERS[:17]).to_bytes(12, "little", signed=True)[:8] + blob[8:]
    elif choice == 2:
        header = canonical_json(_edited(rng, json.loads(blob[8 : 8 + length]), {"a": 1}))
        header += b" " * (-(8 + len(header)) % 64)
        blob = struct.pack("<Q", len(header)) + header + blob[8 + length :]
    else:
        changed, at = bytearray(blob), 8 + length + 4 * rng.randrange(max(1, (len(blob) - 8 - length) // 4))
        changed[at : at + 4] = struct.pack("<f", rng.choice((0.0, -0.0, 1e38, float("nan"), float("inf"), 1e-40)))
        blob = bytes(changed)
    return forged(data, **{name.replace(".", "_"): blob})


def parts_swapped(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A part of another program, or none, or parts in another order, or under other names."""
    mine, theirs = parts_of(data), parts_of(other)
    name = rng.choice(list(mine))
    choice = rng.randrange(4)
    if choice == 0 and name != "net.so":
        return forged(data, **{name.replace(".", "_"): theirs[name] if name != "manifest.json" else b""})
    if choice == 1:
        return joined({n: d for n, d in mine.items() if n != name})
    if choice == 2:
        shuffled = rng.sample(list(mine), len(mine))
        return joined({n: mine[n] for n in shuffled})
    strange = rng.choice(("../net.so", "/etc/passwd", "", "net.so/..", "NET.SO", "a" * 300))
    return joined({(strange if n == name else n): d for n, d in mine.items()})


Mutation = Callable[[random.Random, bytes, bytes], bytes]
KINDS: dict[str, Mutation] = {
    f.__name__: f
    for f in (
        flipped,
        cut,
        spliced,
        lengths,
        manifest_edited,
        manifest_rewritten,
        graph_edited,
        graph_reshaped,
        tables_edited,
        parts_swapped,
    )
}
# How often what the compiler reads is built anew.
COMPILED = {"graph_edited": 0.9, "graph_reshaped": 0.9, "manifest_edited": 0.1, "tables_edited": 0.1, "flipped": 0.02}


def _edited(rng: random.Random, value: Any, other: Any) -> Any:
    """The value with one to three changes; it may take over something of another."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        holders = [place for place in _places(value) if place[0] is not None]
        if not holders:
            return rng.choice(VALUES)
        holder, key = rng.choice(holders)
        choice = rng.randrange(8)
        if choice == 0:
            del holder[key]
        elif choice == 1 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif choice == 2:
            foreign = rng.choice([place for place in _places(other) if place[0] is not None])
            holder[key] = copy.deepcopy(foreign[0][foreign[1]])
        elif choice == 3 and isinstance(holder, dict):
            holder[rng.choice((key.upper(), "kind", ""))] = holder.pop(key)
        elif choice in (4, 5) and type(holder[key]) is int:
            holder[key] += rng.choice((-1, 1, 2, -2, holder[key], 2**20))
        elif choice == 6 and isinstance(holder[key], list):
            rng.shuffle(holder[key])
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def _places(value: Any, holder: Any = None, key: Any = None) -> list[tuple[Any, Any]]:
    """Everything in a JSON value as (holder, key)."""
    found = [(holder, key)]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for k, item in items:
        found += _places(item, value, k)
    return found
