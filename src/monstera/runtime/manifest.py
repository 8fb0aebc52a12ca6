"""The manifest of an artifact: what the library expects and gives, as plain JSON that is checked when read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = "monstera"
VERSION = 3
DTYPES = ("float32", "int64", "int32", "bool")


class ArtifactError(ValueError):
    """An artifact is damaged, foreign, of a newer version, or made for another machine."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input tensor: the name the model's forward gives it, shape, dtype; keyword-only if not `positional`.

    The library takes fp32 whatever the dtype. Whole numbers with a `limit` lie from 0 up to it, which is left out.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    positional: bool = True
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class PackingSpec:
    """How the weights of a step lie: `blocks` blocks of `size` rows, taken in their natural order or clustered.

    A row of the dense layer has `columns` weights (those of its convolution group). `weights` of all survive, `stored`
    lie in memory, as blocks carry zeros. `flop` is the predicted cost: the floating-point operations that the core does
    at its peak in the same time.
    """

    order: str
    size: int
    blocks: int
    columns: int
    weights: int
    stored: int
    flop: float


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One step of the program: the layer it belongs to, the kernel chosen, its work, and its weights if it has any.

    `packing` has an entry for each size of blocks that the step's weights lie in.
    """

    layer: str
    title: str
    kernel: str
    dense_macs: int
    macs: int
    bytes: int
    packing: tuple[PackingSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about an engine but its weights and code.

    The library runs on `platform` ("linux-aarch64") where the processor has `features`; `flags` are the C compiler's,
    as gcc spells them. `output` is a tree (see the frontend); `outputs` are the shapes it indexes; `sha256` covers the
    artifact's parts. `tuning` holds the choices of a tuned engine by layer key; only the compiler reads it.
    """

    target: str
    platform: str
    features: tuple[str, ...]
    flags: tuple[str, ...]
    threads: int
    abi: int
    arena_floats: int
    best_floats: int
    weight_bytes: int
    compiler: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[tuple[int, ...], ...]
    output: Mapping[str, Any]
    layers: tuple[LayerSpec, ...]
    sha256: Mapping[str, str] = field(default_factory=dict)
    tuning: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the manifest as JSON with sorted keys: the same manifest, the same bytes."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, sort_keys=True, indent=1).encode()


def read_manifest(text: bytes, where: str) -> Manifest:
    """Parse and check a manifest.

    Raises:
        ArtifactError: it is not ours, of a newer version, or a field is missing or of the wrong kind.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise ArtifactError(f"{where}: the manifest is not JSON: {error}") from error
    if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
        raise ArtifactError(f"{where}: not a Monstera artifact (its manifest does not say so)")
    version = raw.pop("version", None)
    if version != VERSION:
        raise ArtifactError(
            f"{where}: artifact format version {version}, this Monstera reads version {VERSION}; "
            "update Monstera, or compile the model again"
        )
    try:
        raw["inputs"] = tuple(_input(i) for i in raw["inputs"])
        raw["outputs"] = tuple(_shape(s) for s in raw["outputs"])
        raw["layers"] = tuple(_layer(layer) for layer in raw["layers"])
        raw["features"], raw["flags"] = tuple(raw["features"]), tuple(raw["flags"])
        manifest = Manifest(**raw)
        _check(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{where}: the manifest is damaged: {error}") from error
    return manifest


def _input(raw: Mapping[str, Any]) -> InputSpec:
    dtype, limit = str(raw["dtype"]), raw["limit"]
    if dtype not in DTYPES:
        raise ValueError(f"{dtype} is no dtype of an input; expected one of {', '.join(DTYPES)}")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"{limit!r} is no number of rows")
    return InputSpec(str(raw["name"]), _shape(raw["shape"]), dtype, bool(raw["positional"]), limit)


def _layer(raw: Mapping[str, Any]) -> LayerSpec:
    return LayerSpec(**{**raw, "packing": tuple(PackingSpec(**packing) for packing in raw["packing"])})


def _shape(raw: Any) -> tuple[int, ...]:
    shape = tuple(raw)
    if not all(isinstance(d, int) and d >= 0 for d in shape):
        raise ValueError(f"{raw} is not a shape")
    return shape


def _check(manifest: Manifest) -> None:
    for name in ("threads", "abi", "arena_floats", "best_floats", "weight_bytes"):
        value = getattr(manifest, name)
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{name} is {value!r}, expected a count")
    words = (manifest.target, manifest.platform, *manifest.features, *manifest.flags)
    if not all(isinstance(word, str) for word in words):
        raise ValueError(f"expected words for target, platform, features and flags, got {words}")
    _check_tree(manifest.output, len(manifest.outputs))


def _check_tree(tree: Any, outputs: int) -> None:
    kind = tree["kind"]
    if kind == "value":
        if not isinstance(tree["index"], int) or not 0 <= tree["index"] < outputs:
            raise ValueError(f"the output tree names output {tree['index']!r} of {outputs}")
    elif kind in ("tuple", "list", "dict", "namedtuple", "record"):
        if kind in ("dict", "namedtuple", "record") and len(tree["keys"]) != len(tree["items"]):
            raise ValueError(f"a {kind} of the output tree has {len(tree['keys'])} keys for {len(tree['items'])} items")
        for item in tree["items"]:
            _check_tree(item, outputs)
    elif kind != "constant":
        raise ValueError(f"the output tree has a node of unknown kind {kind!r}")
