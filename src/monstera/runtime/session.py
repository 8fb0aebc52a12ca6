"""A session: an engine whose recurrent states pass from each call to the next, for sequences that come in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from monstera.runtime.engine import Engine

Steps = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class _Carried:
    """One state: the input that takes it, and the steps through the engine's answer to the output that gives it."""

    name: str
    steps: Steps
    zeros: np.ndarray


class Session:
    """An engine with states that it keeps between calls; made by `Engine.session`.

    Call it as the engine, without the inputs that are carried: they are zeros at first, then what the call before gave.
    The answer is the engine's whole answer. A session belongs to one caller; any number of them may share an engine.
    """

    def __init__(self, engine: Engine, carry: Mapping[str, str]) -> None:
        self._engine = engine
        self._carried = _carried(engine, carry)
        names = {carried.name for carried in self._carried}
        self._free = tuple(i.name for i in engine.manifest.inputs if i.positional and i.name not in names)
        self.reset()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network on the next piece. A call that fails leaves the states as they were.

        Raises:
            TypeError, ValueError, ArtifactError: as for a call of the engine, or an argument is a carried input.
        """
        if len(args) > len(self._free):
            raise TypeError(
                f"expected at most {len(self._free)} positional inputs ({', '.join(self._free)}), got {len(args)}; "
                f"the session itself passes {', '.join(self._states)}"
            )
        given = dict(zip(self._free, args, strict=False))
        if own := sorted(self._states.keys() & kwargs.keys()):
            raise TypeError(f"input {own[0]!r} is carried by the session; leave it out, or call the engine itself")
        if twice := sorted(given.keys() & kwargs.keys()):
            raise TypeError(f"input {twice[0]!r} was given twice")
        answer = self._engine(**given, **kwargs, **self._states)
        # Copies: the caller may write to what it got.
        self._states = {carried.name: np.asarray(_at(answer, carried.steps)).copy() for carried in self._carried}
        return answer

    def reset(self) -> None:
        """Begin a new sequence: all states are zeros again."""
        self._states = {carried.name: carried.zeros for carried in self._carried}

    def __repr__(self) -> str:
        return f"Session({self._engine!r}, carrying {', '.join(self._states)})"


def _carried(engine: Engine, carry: Mapping[str, str]) -> tuple[_Carried, ...]:
    """The states that a mapping from output paths to input names describes.

    Raises:
        ValueError: the mapping is empty, names an unknown output or input, an input twice, two different shapes, or an
            input that is not float32.
    """
    manifest = engine.manifest
    outputs = {".".join(map(str, steps)): (steps, manifest.outputs[i]) for steps, i in _leaves(manifest.output)}
    inputs = {spec.name: spec.shape for spec in manifest.inputs}
    dtypes = {spec.name: spec.dtype for spec in manifest.inputs}
    what = f"outputs {_listed({p: s for p, (_, s) in outputs.items()})}; inputs {_listed(inputs)}"
    if not carry:
        raise ValueError(f"carry is empty; say which output is which input of the next call: {what}")
    if unknown := [path for path in carry if path not in outputs]:
        raise ValueError(f"carry names the output {unknown[0]!r}, which is not there: {what}")
    if unknown := [name for name in carry.values() if name not in inputs]:
        raise ValueError(f"carry names the input {unknown[0]!r}, which is not there: {what}")
    if len(set(carry.values())) < len(carry):
        raise ValueError(f"carry gives one input from several outputs: {dict(carry)}")
    for path, name in carry.items():
        if dtypes[name] != "float32":
            raise ValueError(
                f"output {path!r} is float32 and cannot be carried to input {name!r}, which is {dtypes[name]}: "
                "pass that input at every call"
            )
        if outputs[path][1] != inputs[name]:
            raise ValueError(
                f"output {path!r} is {list(outputs[path][1])} and cannot be carried to input {name!r}, "
                f"which is {list(inputs[name])}"
            )
    return tuple(_Carried(name, outputs[path][0], _zeros(inputs[name])) for path, name in carry.items())


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


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    zeros = np.zeros(shape, np.float32)
    zeros.flags.writeable = False
    return zeros


def _listed(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name!r} {list(shape)}" for name, shape in shapes.items())
