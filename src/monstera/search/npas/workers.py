"""Schemes evaluated here one after the other, or in several processes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from monstera.search.npas.outcome import Outcome
from monstera.search.npas.scheme import Scheme
from monstera.search.workers import LOOK_S, Crew, Here, Processes

Evaluate: TypeAlias = Callable[[Scheme], Outcome]
# The outcome of each scheme as it comes, or why there is none.
Results: TypeAlias = Iterator[tuple[Scheme, Outcome | Exception]]


@contextmanager
def evaluators(evaluate: Evaluate, workers: int) -> Iterator[Callable[[Sequence[Scheme]], Results]]:
    """Give a function that evaluates schemes and yields outcomes in the order in which they are finished.

    One worker is this process. More are new processes, for which `evaluate` must be picklable; they end with this one,
    however it ends, and what one of them was doing when it died is done again (see `Processes`).

    Raises:
        ValueError: fewer than one worker.
        TypeError: `evaluate` cannot be pickled, and there are several workers.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    crew = Here(evaluate) if workers == 1 else Processes(evaluate, workers)
    try:
        yield lambda schemes: _finished(crew, schemes)
    finally:
        crew.close()


def _finished(crew: Crew, schemes: Sequence[Scheme]) -> Results:
    for number, scheme in enumerate(schemes):
        crew.submit(number, scheme)
    for _ in schemes:
        while (answer := crew.next(LOOK_S)) is None:
            pass
        number, outcome = answer
        yield schemes[number], outcome
