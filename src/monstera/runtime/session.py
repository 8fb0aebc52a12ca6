"""A session: an engine with states that pass from each call to the next, for sequences that come in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from monstera.runtime.arguments import bound
from monstera.runtime.arrays import as_array
from monstera.runtime.manifest import InputSpec, Manifest
from monstera.runtime.memory import aligned_empty

if TYPE_CHECKING:
    from monstera.runtime.engine import Engine

Steps = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class _Link:
    """An input that the session passes, and the steps through the engine's answer to the output that it comes from.

    With an `axis` it is a cache: each call adds rows along it. Without, the output is the whole input of the next call.
    The output has this `shape` when the engine is called with its first shapes.
    """

    spec: InputSpec
    steps: Steps
    shape: tuple[int, ...]
    axis: int | None = None

    @property
    def rows(self) -> int:
        """The rows that a call at the engine's first shapes adds to a cache."""
        return 0 if self.axis is None else self.shape[self.axis]

    @property
    def places(self) -> int:
        """The rows that a cache has room for."""
        return 0 if self.axis is None else self.spec.shape[self.axis]


class Session:
    """An engine with states that it keeps between calls; made by `Engine.session`.

    Call it as the engine, without the inputs that the session passes. Carried inputs are zeros at first, then what the
    call before gave. Caches are passed where they lie, and each call's rows are written behind those of the calls
    before. The answer is the engine's whole answer. A session belongs to one caller; any number of them may share an
    engine. Where the engine has several shapes, a call may have any that leave states as they are, and give any number
    of rows: a prompt in pieces, then token by token.
    """

    def __init__(self, engine: Engine, carry: Mapping[str, str], append: Mapping[str, str], count: str | None) -> None:
        self._engine = engine
        self._links = _links(engine.manifest, carry, append)
        self._caches = [link for link in self._links if link.axis is not None]
        self._counter = _counter(engine.manifest, count, self._links)
        counted = () if self._counter is None else (self._counter.name,)
        self._own = (*(link.spec.name for link in self._links), *counted)
        self._free = tuple(i for i in engine.manifest.inputs if i.name not in self._own)
        self._values = {link.spec.name: _memory(link.spec.shape) for link in self._links}
        self.reset()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network on the next piece. A call that fails leaves the states as they were.

        Raises:
            TypeError, ValueError, ArtifactError: as for a call of the engine, or an argument is one of the inputs that
                the session passes.
            ValueError: the caches have no room for another piece.
        """
        if own := sorted({*self._own} & kwargs.keys()):
            raise TypeError(f"input {own[0]!r} is carried by the session; leave it out, or call the engine itself")
        given = dict(zip([spec.name for spec in self._free], bound(self._free, args, kwargs, self._takes), strict=True))
        # The usual case before anything runs; which rows another shape gives is seen when it has run.
        one = len(self._engine.manifest.programs) == 1
        self._check_room(self._caches[0].rows if one and self._caches else 1)
        answer = self._engine(**given, **self._passed())
        outputs = [np.asarray(_at(answer, link.steps)) for link in self._links]
        rows = self._rows(outputs)
        self._check_room(rows)
        for link, output in zip(self._links, outputs, strict=True):
            self._take(link, output)
        self._count += rows
        return answer

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Copies of all inputs that the session passes, by name.

        Set it to what another session had, of this engine or of one with the same states, to go on from there.

        Raises:
            TypeError, ValueError: when set, a name is missing or unknown, or a value has another shape or dtype, or
                the count is more than the caches hold.
        """
        return {name: value.copy() for name, value in self._passed().items()}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        if state.keys() != {*self._own}:
            raise ValueError(f"expected the states {', '.join(self._own)}; got {', '.join(sorted(state)) or 'none'}")
        values = {link.spec.name: as_array(state[link.spec.name], link.spec) for link in self._links}
        count = self._count
        if self._counter is not None:
            # The count of a full session is no longer the number of a place.
            counts = as_array(state[self._counter.name], replace(self._counter, limit=None))
            places = self._caches[0].places
            count = int(counts.flat[0])
            if (counts != count).any() or not 0 <= count <= places:
                raise ValueError(
                    f"state {self._counter.name!r} is {counts.tolist()}; expected one count up to {places}"
                )
        for name, value in values.items():
            np.copyto(self._values[name], value)
        self._count = count

    def reset(self) -> None:
        """Begin a new sequence: all states are zeros again, and caches are empty."""
        for value in self._values.values():
            value.fill(0)
        self._count = 0

    def __repr__(self) -> str:
        return f"Session({self._engine!r}, carrying {', '.join(self._own)})"

    def _takes(self) -> str:
        names = ", ".join(spec.name for spec in self._free) or "nothing"
        return f"the session takes {names}, and itself passes {', '.join(self._own)}"

    def _check_room(self, rows: int) -> None:
        for cache in self._caches[:1]:
            if self._count + rows > cache.places:
                raise ValueError(
                    f"the caches are full: {self._count} of {cache.places} places are taken, and a call adds "
                    f"{rows}; call reset() to begin anew, or compile the model for longer caches"
                )

    def _rows(self, outputs: Sequence[np.ndarray]) -> int:
        """How many rows the outputs of the links add to the caches.

        Raises:
            ValueError: an output does not fit the input that it is for, as the call had shapes for which it differs.
        """
        rows = 0
        for link, output in zip(self._links, outputs, strict=True):
            fits = list(link.shape)
            if link.axis is not None and output.ndim == len(fits):
                rows = rows or output.shape[link.axis]
                fits[link.axis] = rows
            if output.shape != tuple(fits):
                raise ValueError(
                    f"this call gave {list(output.shape)} for the input {link.spec.name!r}, and the session keeps "
                    f"{fits}: call it with shapes for which its states have one shape"
                )
        return rows

    def _passed(self) -> dict[str, np.ndarray]:
        counter = self._counter
        if counter is None:
            return self._values
        return {**self._values, counter.name: np.full(counter.shape, self._count, counter.dtype)}

    def _take(self, link: _Link, output: np.ndarray) -> None:
        """Copies: the caller may write to what it got."""
        value = self._values[link.spec.name]
        if link.axis is not None:
            output = np.moveaxis(output, link.axis, 0)
            value = np.moveaxis(value, link.axis, 0)[self._count : self._count + len(output)]
        np.copyto(value, output)


def _links(manifest: Manifest, carry: Mapping[str, str], append: Mapping[str, str]) -> tuple[_Link, ...]:
    """What two mappings from output paths to input names describe.

    Raises:
        ValueError: both are empty, an output or input is unknown, an input is named twice or not float32, or shapes do
            not fit.
    """
    leaves = {".".join(map(str, steps)): (steps, manifest.outputs[i]) for steps, i in _leaves(manifest.output)}
    inputs = {spec.name: spec for spec in manifest.inputs}
    shapes = {spec.name: spec.shape for spec in manifest.inputs}
    what = f"outputs {_listed({p: s for p, (_, s) in leaves.items()})}; inputs {_listed(shapes)}"
    if not carry and not append:
        raise ValueError(f"carry is empty; say which output is which input of the next call: {what}")
    found: list[_Link] = []
    for how, mapping in (("carry", carry), ("append", append)):
        if unknown := [path for path in mapping if path not in leaves]:
            raise ValueError(f"{how} names the output {unknown[0]!r}, which is not there: {what}")
        if unknown := [name for name in mapping.values() if name not in inputs]:
            raise ValueError(f"{how} names the input {unknown[0]!r}, which is not there: {what}")
        for path, name in mapping.items():
            steps, shape = leaves[path]
            found.append(_link(how, path, inputs[name], steps, shape))
    names = [link.spec.name for link in found]
    if len(set(names)) < len(names):
        raise ValueError(f"one input from several outputs: carry={dict(carry)}, append={dict(append)}")
    sizes = {(link.rows, link.places) for link in found if link.axis is not None}
    if len(sizes) > 1:
        raise ValueError(f"all caches need the same places and rows a call; got (rows, places) {sorted(sizes)}")
    return tuple(found)


def _link(how: str, path: str, spec: InputSpec, steps: Steps, shape: tuple[int, ...]) -> _Link:
    verb = "carried" if how == "carry" else "appended"
    if spec.dtype != "float32":
        raise ValueError(
            f"output {path!r} is float32 and cannot be {verb} to input {spec.name!r}, which is {spec.dtype}: "
            "pass that input at every call"
        )
    misfit = (
        f"output {path!r} is {list(shape)} and cannot be {verb} to input {spec.name!r}, which is {list(spec.shape)}"
    )
    if how == "carry":
        if shape != spec.shape:
            raise ValueError(misfit)
        return _Link(spec, steps, shape)
    longer = [d for d, (rows, places) in enumerate(zip(shape, spec.shape, strict=False)) if rows != places]
    if len(shape) != len(spec.shape) or len(longer) != 1 or not 0 < shape[longer[0]] < spec.shape[longer[0]]:
        raise ValueError(f"{misfit}; a cache is longer than what is appended in one dimension, and equal in all others")
    return _Link(spec, steps, shape, longer[0])


def _counter(manifest: Manifest, count: str | None, links: Sequence[_Link]) -> InputSpec | None:
    """The input that is told how many rows the caches hold.

    Raises:
        ValueError: there are caches and no such input, or the other way round; it is unknown, has another use, or takes
            no whole numbers.
    """
    caches = [link.spec.name for link in links if link.axis is not None]
    if count is None and not caches:
        return None
    whole = {i.name: i for i in manifest.inputs if i.dtype in ("int32", "int64")}
    if count is None:
        raise ValueError(
            f"append needs count, the input that is told how many rows the caches hold; inputs of whole numbers: "
            f"{', '.join(whole) or 'none'}"
        )
    if not caches:
        raise ValueError(f"count={count!r} counts rows of caches; say with append what is appended to which input")
    if count not in whole:
        raise ValueError(f"count={count!r} is no input of whole numbers; there are {', '.join(whole) or 'none'}")
    return whole[count]


def _leaves(tree: Mapping[str, Any], steps: Steps = ()) -> Iterator[tuple[Steps, int]]:
    """Every tensor of an output tree: the subscripts that lead to it, and its number."""
    if tree["kind"] == "value":
        yield steps, tree["index"]
    keys: Sequence[int | str] = (
        tree["keys"] if tree["kind"] in ("dict", "record") else range(len(tree.get("items", ())))
    )
    for key, item in zip(keys, tree.get("items", ()), strict=True):
        yield from _leaves(item, (*steps, key))


def _at(answer: Any, steps: Steps) -> Any:
    for step in steps:
        answer = answer[step]
    return answer


def _memory(shape: tuple[int, ...]) -> np.ndarray:
    """Memory for a state, as the engine's own lies: a kernel reads it in place."""
    return aligned_empty(4 * prod(shape)).view(np.float32).reshape(shape)


def _listed(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name!r} {list(shape)}" for name, shape in shapes.items())
