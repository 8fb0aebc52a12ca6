"""Schemes evaluated here one after the other, or in several processes at once."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
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
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(evaluate,)) as pool:
        yield lambda schemes: _finished(pool, schemes)


def _finished(pool: ProcessPoolExecutor, schemes: Sequence[Scheme]) -> Results:
    waiting: dict[Future[Outcome | BaseException], Scheme] = {}
    for scheme in schemes:
        try:
            waiting[pool.submit(_here, scheme)] = scheme
        except BrokenProcessPool as error:
            yield scheme, error
    for future in as_completed(waiting):
        yield waiting[future], future.exception() or future.result()


def _tried(evaluate: Evaluate, scheme: Scheme) -> Outcome | BaseException:
    try:
        return evaluate(scheme)
    except Exception as error:
        return error


# What this process evaluates by, if it is a worker: sent once, as it may hold a data set.
_evaluate: Evaluate | None = None


def _begin(evaluate: Evaluate) -> None:
    global _evaluate
    _evaluate = evaluate
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Workers wait for work on a pipe that they hold open themselves, so that a killed parent would not end them."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _here(scheme: Scheme) -> Outcome | BaseException:
    assert _evaluate is not None
    return _tried(_evaluate, scheme)
