"""Schemes evaluated here one after the other, or in several processes at once."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeAlias

from monstera.search.npas.outcome import Outcome
from monstera.search.npas.scheme import Scheme

Evaluate: TypeAlias = Callable[[Scheme], Outcome]
# The outcome of each scheme as it comes, or why there is none.
Results: TypeAlias = Iterator[tuple[Scheme, Outcome | BaseException]]


@contextmanager
def evaluators(evaluate: Evaluate, workers: int) -> Iterator[Callable[[Sequence[Scheme]], Results]]:
    """Give a function that evaluates schemes and yields outcomes in the order in which they are finished.

    One worker is this process. More are new processes, for which `evaluate` must be picklable; they end with this one,
    however it ends.

    Raises:
        ValueError: fewer than one worker.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    if workers == 1:
        yield lambda schemes: ((scheme, _tried(evaluate, scheme)) for scheme in schemes)
        return
    # Not forked: threads of torch do not survive that.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:

        def run(schemes: Sequence[Scheme]) -> Results:
            waiting = {pool.submit(evaluate, scheme): scheme for scheme in schemes}
            for future in as_completed(waiting):
                yield waiting[future], future.exception() or future.result()

        yield run


def _tried(evaluate: Evaluate, scheme: Scheme) -> Outcome | BaseException:
    try:
        return evaluate(scheme)
    except Exception as error:
        return error


def _end_with_parent() -> None:
    """Workers wait for work on a pipe that they hold open themselves, so that a killed parent would not end them."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
