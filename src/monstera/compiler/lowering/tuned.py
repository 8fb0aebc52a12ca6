"""The layers that a tuner may run in other ways: their keys, what each could be run by, and what it is run by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field

import numpy as np

from monstera.compiler.lowering.choice import Candidate, Case, Choice, Cut, cut_of
from monstera.compiler.targets import Target


@dataclass(slots=True)
class TunedLayers:
    """Of each layer, by its key: the choices `asked` for, its case, and the steps that each choice made.

    By the name of its matrix: how earlier programs of the same library cut its rows (`given`), and how all do (`cuts`).
    """

    target: Target
    threads: int
    asked: Mapping[str, Sequence[Choice]]
    given: Mapping[str, Cut]
    cuts: dict[str, Cut] = field(init=False)
    cases: dict[str, Case] = field(default_factory=dict)
    steps: dict[str, dict[Choice, list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cuts = dict(self.given)

    def key(self, *parts: object, given: Cut | None = None) -> str:
        """The key of a layer: all that its code depends on beside what `parts` say; a given cut is a part, too."""
        parts = (*parts, given.order, *given.rows) if given else parts
        digest = hashlib.sha256(f"{self.target.name} {self.threads}".encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else repr(part).encode())
        return digest.hexdigest()[:24]

    def matrix(self, kernel: str, holes: np.ndarray, groups: int = 1) -> str:
        """The name by which programs of one library know the rows of a layer: what its blocks depend on."""
        return self.key(kernel, np.packbits(holes), (holes.shape, groups))

    def each_choice(self, key: str, case: Case, matrix: str, steps: Sized) -> Iterator[tuple[Choice, Candidate]]:
        """What to run a layer by: normally one choice. Steps made before the next is asked for are put down to it."""
        self.cases[key] = case
        for choice in self.asked.get(key) or (case.default,):
            first = len(steps)
            candidate = choice.among(case.candidates)
            yield choice, candidate
            self.cuts.setdefault(matrix, cut_of(candidate))
            self.steps.setdefault(key, {}).setdefault(choice, []).extend(range(first, len(steps)))
