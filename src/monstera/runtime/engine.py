"""The engine: a compiled network that is called like the model it was made from."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import numpy as np

from monstera.runtime.arguments import bound
from monstera.runtime.arrays import as_array, numpy_of, random_array
from monstera.runtime.artifact import Artifact, write_artifact
from monstera.runtime.export import export_c
from monstera.runtime.library import Library
from monstera.runtime.machine import shortfall
from monstera.runtime.manifest import ArtifactError, Manifest, ProgramSpec
from monstera.runtime.packing import PackingPlan, packing_plan
from monstera.runtime.profile import Memory, Profile, timed
from monstera.runtime.session import Session
from monstera.runtime.structure import build_output

CompileAnew: TypeAlias = "Callable[[Sequence[np.ndarray]], Engine]"
"""Gives the engine for arrays of any shapes, in the order of the inputs."""


class Engine:
    """Native programs for one network, one for each set of input shapes that it was compiled for.

    Call it with the arguments of the model's forward, as torch tensors or numpy arrays of the compiled shapes and
    dtypes; the answer has the model's own structure and is torch if any argument was. Immutable, callable from many
    threads.

    An engine compiled for another machine has no `library`: it is saved, looked at and moved like any other, and says
    what it needs when it is called.
    """

    def __init__(self, artifact: Artifact, library: Library | None, compile_anew: CompileAnew | None = None) -> None:
        self._artifact = artifact
        self._library = library
        self._compile_anew = compile_anew
        self._by_shapes = {program.shapes: i for i, program in enumerate(artifact.manifest.programs)}

    @property
    def manifest(self) -> Manifest:
        """Shapes, target, layers: everything but weights and code."""
        return self._artifact.manifest

    @property
    def digest(self) -> str:
        """The SHA-256 of the manifest that `save` writes, which holds the checksum of every other part.

        It names the whole file: give it to `load(path, sha256=...)`.
        """
        return hashlib.sha256(self._artifact.sealed().to_json()).hexdigest()

    @property
    def c_source(self) -> str:
        """The generated C."""
        return self._artifact.source.decode()

    @property
    def memory(self) -> Memory:
        """Bytes of an arena for any of the shapes, of the best arena possible, and of the weights."""
        manifest = self.manifest
        held = manifest.weight_bytes + manifest.tap_bytes
        return Memory(4 * manifest.arena_floats, 4 * manifest.best_floats, held)

    @property
    def shapes(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        """The declared sets of shapes, each by the names of the inputs; the example's is the first."""
        return tuple({i.name: i.shape for i in program.inputs} for program in self.manifest.programs)

    @property
    def runs_here(self) -> bool:
        """Whether this machine can run it: False only for an engine compiled for another one."""
        return self._library is not None

    def __repr__(self) -> str:
        return f"Engine({self._takes}; {self.manifest.target}, {self.manifest.threads} thread(s))"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network.

        Raises:
            TypeError: an argument is missing, unknown, given twice, not an array, or of another dtype.
            ValueError: the arguments have other shapes than the engine was compiled for, or hold the number of a row
                that a table of the network does not have.
            ArtifactError: the engine was compiled for another machine.
            Whatever `monstera.compile` raises, where that is what undeclared shapes are for.
        """
        return self._run(self._bound(args, kwargs))

    def _run(self, given: Sequence[Any]) -> Any:
        library = self._loaded()
        which = self._which(given)
        if which is None:
            return self._anew(given)._run(given)
        program = self.manifest.programs[which]
        arrays = _arrays(given, program)
        outputs = [np.empty(shape, np.float32) for shape in program.outputs]
        library.run(arrays, outputs, program=which)
        torch = sys.modules.get("torch")
        if torch is not None and any(isinstance(value, torch.Tensor) for value in given):
            return build_output(program.output, [torch.from_numpy(o) for o in outputs])
        return build_output(program.output, outputs)

    def session(
        self,
        carry: Mapping[str, str] | None = None,
        *,
        append: Mapping[str, str] | None = None,
        count: str | None = None,
    ) -> Session:
        """Return a session that keeps states between calls, for sequences that come in pieces.

        Args:
            carry: for each state the path of the output that gives it, and the name of the input that takes it in the
                next call. A path is the subscripts that lead to the output, joined by dots: "1" is the second of a
                tuple, "1.0" the first of the tuple there, "state" an entry of a dict or record, "" the whole answer.
            append: for each cache the path of an output, and the name of the input that takes what all calls before
                gave there, one behind the other along the only dimension in which it is longer. What lies behind that
                means nothing. Once it is full, calls are refused.
            count: the input, of whole numbers, that is told how many rows the caches hold; caches need one.

        Raises:
            ValueError: no such output or input, their shapes do not fit, the input is not float32 or is named twice,
                caches have no count or differ in length, or nothing is kept.

        Example:
            >>> import torch, monstera as ms
            >>> gru = torch.nn.GRU(8, 16).eval()
            >>> engine = ms.compile(gru, (torch.zeros(10, 1, 8), torch.zeros(1, 1, 16)))
            >>> session = engine.session({"1": "hx"})
            >>> for piece in torch.randn(30, 1, 8).split(10):
            ...     y, state = session(piece)
        """
        return Session(self, carry or {}, append or {}, count)

    def profile(self, *args: Any, rounds: int = 20, shape: int = 0, **kwargs: Any) -> Profile:
        """Time every step: medians over `rounds` runs, on the given arguments or on random ones.

        Args:
            shape: without arguments, which of `shapes` is run.

        Raises:
            TypeError, ValueError, ArtifactError: as for a call, or there is no such shape.
        """
        library = self._loaded()
        if args or kwargs:
            given = self._bound(args, kwargs)
            found = self._which(given)
            if found is None:
                return self._anew(given).profile(*args, rounds=rounds, **kwargs)
            shape, program = found, self.manifest.programs[found]
        else:
            program, rng = self._declared(shape), np.random.default_rng(0)
            given = [random_array(spec, rng) for spec in program.inputs]
        arrays = _arrays(given, program)
        outputs = [np.empty(size, np.float32) for size in program.outputs]
        return timed(lambda seconds: library.run(arrays, outputs, seconds, program=shape), program.layers, rounds)

    def plan(self, profile: Profile | None = None, *, peak_gflops: float | None = None, shape: int = 0) -> PackingPlan:
        """Say how the weights lie: blocks, padding zeros, predicted and, given a profile, measured time of each layer.

        Args:
            profile: what `profile()` of this engine returned, for the same shape.
            peak_gflops: the FMA peak, in GFLOP/s of the cores used, that predictions assume; else 100 a core.
            shape: which of `shapes` times are predicted for.

        Raises:
            ValueError: the profile was taken of another engine, the peak is not positive, or there is no such shape.

        Example:
            >>> import torch, monstera as ms
            >>> engine = ms.compile(torch.nn.Conv2d(8, 16, 3).eval(), torch.zeros(1, 8, 20, 20))
            >>> engine.plan().layers[0].share
            1.0
        """
        return packing_plan(self._declared(shape).layers, self.manifest.threads, profile, peak_gflops)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the engine as one file that `load` reads without torch and without a compiler.

        Raises:
            OSError: the folder does not exist or cannot be written.
        """
        write_artifact(self._artifact, path)

    def export_c(self, folder: str | os.PathLike[str]) -> None:
        """Write the engine as files for a C program: `net.c`, `net.h`, `net.mk`, `weights.safetensors`, `README.md`.

        The folder is made if it is missing. `examples/c` in the repository is a program around such an export.

        Raises:
            OSError: the folder cannot be made or written.
        """
        export_c(self._artifact, folder)

    def _declared(self, shape: int) -> ProgramSpec:
        programs = self.manifest.programs
        if not isinstance(shape, int) or not 0 <= shape < len(programs):
            raise ValueError(f"shape is {shape!r}; this engine has the shapes 0 to {len(programs) - 1}: {self!r}")
        return programs[shape]

    def _which(self, given: Sequence[Any]) -> int | None:
        """The program for arguments in the order of the inputs; None if their shapes are to be compiled for.

        Raises:
            TypeError, ValueError: as for a call.
        """
        found = self._by_shapes.get(tuple(tuple(getattr(value, "shape", ())) for value in given))
        if found is not None:
            return found
        if self._compile_anew is not None:
            return None
        # One program alone says which input is wrong.
        return 0 if len(self._by_shapes) == 1 else self._refused(given)

    def _refused(self, given: Sequence[Any]) -> NoReturn:
        arrays = [(spec.name, numpy_of(value, spec)) for value, spec in zip(given, self.manifest.inputs, strict=True)]
        came = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays)
        declared = "; ".join(map(str, self.manifest.programs))
        raise ValueError(
            f"got {came}; the engine was compiled for these shapes: {declared}: "
            "compile again with an example of this shape among them (also=[...])"
        )

    def _anew(self, given: Sequence[Any]) -> Engine:
        """The engine for shapes that were not declared."""
        assert self._compile_anew is not None
        return self._compile_anew(
            [numpy_of(value, spec) for value, spec in zip(given, self.manifest.inputs, strict=True)]
        )

    def with_undeclared(self, compile_anew: CompileAnew) -> Engine:
        """The same engine, which hands calls of other shapes to the engines that it asks for. They are not saved."""
        return Engine(self._artifact, self._library, compile_anew)

    def _loaded(self) -> Library:
        if self._library is None:
            manifest = self.manifest
            raise ArtifactError(
                f"this engine was compiled for {manifest.target}: {shortfall(manifest.platform, manifest.features)}; "
                'save it and load it on such a machine, or compile with target="native" to run it here'
            )
        return self._library

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        return bound(self.manifest.inputs, args, kwargs, lambda: f"the engine takes {self._takes}")

    @property
    def _takes(self) -> str:
        return " or ".join(map(str, self.manifest.programs))


def _arrays(given: Sequence[Any], program: ProgramSpec) -> list[np.ndarray]:
    return [as_array(value, spec) for value, spec in zip(given, program.inputs, strict=True)]
