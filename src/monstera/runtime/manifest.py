"""The manifest of an artifact: what the library expects and gives, as plain JSON that is checked when read."""

from __future__ import annotations

import hashlib
import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from monstera.runtime.strict_json import canonical_json, decoded, encoded, parse_json

FORMAT = "monstera"
VERSION = 4
DTYPES = ("float32", "int64", "int32", "bool")
_DEEPEST = 64


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
class ProgramSpec:
    """What is run for one declared set of input shapes: signature, memory, steps.

    `output` is a tree (see the frontend); `outputs` are the shapes it indexes.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[tuple[int, ...], ...]
    output: Mapping[str, Any]
    arena_floats: int
    best_floats: int
    layers: tuple[LayerSpec, ...]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the inputs, which tell programs apart."""
        return tuple(i.shape for i in self.inputs)

    def __str__(self) -> str:
        return ", ".join(f"{i.name} {list(i.shape)}" for i in self.inputs)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about an engine but its weights and code.

    The library runs on `platform` ("linux-aarch64") where the processor has `features`; `flags` are the C compiler's,
    as gcc spells them. It holds one of the `programs` for each declared set of shapes, the example's first; in memory,
    `tap_bytes` of tables that are made of others when it is loaded follow the weights. `sha256` covers the artifact's
    other parts, and is empty as long as they are not written. `tuning` holds the choices of a tuned engine by layer
    key; only the compiler reads it.

    What only a program has (`inputs`, `layers` and so on) is that of the first.
    """

    target: str
    platform: str
    features: tuple[str, ...]
    flags: tuple[str, ...]
    threads: int
    abi: int
    weight_bytes: int
    tap_bytes: int
    compiler: str
    programs: tuple[ProgramSpec, ...]
    sha256: Mapping[str, str] = field(default_factory=dict)
    tuning: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What the first program takes."""
        return self.programs[0].inputs

    @property
    def outputs(self) -> tuple[tuple[int, ...], ...]:
        """The shapes that the first program gives."""
        return self.programs[0].outputs

    @property
    def output(self) -> Mapping[str, Any]:
        """The structure around the first program's outputs."""
        return self.programs[0].output

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The steps of the first program."""
        return self.programs[0].layers

    @property
    def arena_floats(self) -> int:
        """Floats of an arena that all programs can run in."""
        return max(program.arena_floats for program in self.programs)

    @property
    def best_floats(self) -> int:
        """The least that any placement of all programs could do with."""
        return max(program.best_floats for program in self.programs)

    def to_json(self) -> bytes:
        """Return the manifest as JSON with sorted keys: the same manifest, the same bytes."""
        return canonical_json({"format": FORMAT, "version": VERSION, **encoded(self)})

    def description_sha256(self) -> str:
        """The SHA-256 of all it says but the checksums of the parts; the library that is built for it holds it too."""
        return hashlib.sha256(replace(self, sha256={}).to_json()).hexdigest()


def read_manifest(text: bytes, where: str) -> Manifest:
    """Parse and check a manifest; it has to be the very bytes that `to_json` gives.

    Raises:
        ArtifactError: it is not ours, of another version, or a field is missing, unknown or of the wrong kind.
    """
    try:
        raw = parse_json(text)
    except ValueError as error:
        raise ArtifactError(f"{where}: the manifest is not JSON: {error}") from error
    if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
        raise ArtifactError(f"{where}: not a Monstera artifact (its manifest does not say so)")
    _check_version(raw.pop("version", None), where)
    try:
        manifest = decoded(Manifest, raw, "manifest")
        _check(manifest)
    except ValueError as error:
        raise ArtifactError(f"{where}: the manifest is damaged: {error}") from error
    if manifest.to_json() != text:
        raise ArtifactError(f"{where}: the manifest is damaged: it is not written as Monstera writes it")
    return manifest


def _check_version(version: Any, where: str) -> None:
    if isinstance(version, int) and not isinstance(version, bool) and version == VERSION:
        return
    newer = isinstance(version, int) and version > VERSION
    advice = "update Monstera" if newer else "compile the model again, or load it with the Monstera that made it"
    raise ArtifactError(f"{where}: artifact format version {version!r:.40}, this Monstera reads {VERSION}: {advice}")


def _check(manifest: Manifest) -> None:
    """Check what the types do not say.

    Raises:
        ValueError: a negative count, a name twice, an output tree that names outputs there are not, programs that are
            not told apart by the shapes of their inputs, and by nothing else of them.
    """
    _check_counts({name: getattr(manifest, name) for name in ("abi", "weight_bytes", "tap_bytes")})
    if not 1 <= manifest.threads <= 64:
        raise ValueError(f"threads is {manifest.threads}, expected 1 to 64")
    # They stand in errors, and a terminal must not take them for orders.
    for word in (manifest.target, manifest.platform, *manifest.features):
        if not word.isprintable():
            raise ValueError(f"{word!r:.40} is not the name of a target, a platform or a feature")
    if not manifest.programs:
        raise ValueError("it has no program")
    for program in manifest.programs:
        _check_program(program)
    if len({signature(program.inputs) for program in manifest.programs}) > 1:
        raise ValueError("its programs take inputs that differ in more than their shapes")
    if len({program.shapes for program in manifest.programs}) < len(manifest.programs):
        raise ValueError("two of its programs take inputs of the same shapes")


def signature(inputs: Sequence[InputSpec]) -> tuple[tuple[str, str, bool], ...]:
    """All of the inputs that the programs of one engine have in common: their shapes are not."""
    return tuple((i.name, i.dtype, i.positional) for i in inputs)


def _check_counts(counts: Mapping[str, int]) -> None:
    if wrong := [f"{name} is {value}" for name, value in counts.items() if value < 0]:
        raise ValueError(f"{wrong[0]}, expected a count")


def _check_program(program: ProgramSpec) -> None:
    counts = {name: getattr(program, name) for name in ("arena_floats", "best_floats")}
    for layer in program.layers:
        counts |= {f"{layer.title} {name}": getattr(layer, name) for name in ("dense_macs", "macs", "bytes")}
    _check_counts(counts)
    shapes = [*program.shapes, *program.outputs]
    if wrong := [shape for shape in shapes if min(shape, default=0) < 0]:
        raise ValueError(f"{list(wrong[0])} is not a shape")
    if wrong := [i.dtype for i in program.inputs if i.dtype not in DTYPES]:
        raise ValueError(f"{wrong[0]!r:.40} is no dtype of an input; expected one of {', '.join(DTYPES)}")
    if wrong := [i.limit for i in program.inputs if i.limit is not None and i.limit < 1]:
        raise ValueError(f"{wrong[0]} is no number of rows")
    names = [i.name for i in program.inputs]
    if len(set(names)) != len(names):
        raise ValueError(f"two inputs have the same name among {names[:20]}")
    _check_tree(program.output, len(program.outputs), 0)


def _check_tree(tree: Any, outputs: int, depth: int) -> None:
    kind = tree.get("kind") if isinstance(tree, dict) else None
    wanted = _TREE_KEYS.get(kind) if isinstance(kind, str) else None
    if wanted is None or tree.keys() != wanted or depth > _DEEPEST:
        raise ValueError(f"the output tree has a node of unknown kind {kind!r:.40}, wrong fields or too great a depth")
    if kind == "value":
        index = tree["index"]
        if type(index) is not int or not 0 <= index < outputs:
            raise ValueError(f"the output tree names output {index!r:.40} of {outputs}")
    elif kind == "constant":
        if not isinstance(tree["value"], bool | int | float | str | None):
            raise ValueError("the output tree has a constant that is neither a number nor a word")
    else:
        items, keys = tree["items"], tree.get("keys")
        if not isinstance(items, list) or (keys is not None and not _are_keys(keys, len(items))):
            raise ValueError(f"a {kind} of the output tree has keys and items that do not fit")
        if kind in ("namedtuple", "record") and not all(map(_is_identifier, [tree["name"], *(keys or ())])):
            raise ValueError(f"a {kind} of the output tree has a name that Python refuses")
        for item in items:
            _check_tree(item, outputs, depth + 1)


_TREE_KEYS = {
    "value": {"kind", "index"},
    "constant": {"kind", "value"},
    "tuple": {"kind", "items"},
    "list": {"kind", "items"},
    "dict": {"kind", "keys", "items"},
    "namedtuple": {"kind", "name", "keys", "items"},
    "record": {"kind", "name", "keys", "items"},
}


def _are_keys(keys: Any, count: int) -> bool:
    plain = isinstance(keys, list) and all(isinstance(key, str | int) for key in keys)
    return plain and len(set(keys)) == len(keys) == count


def _is_identifier(name: Any) -> bool:
    plain = isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)
    return plain and not name.startswith("_")
