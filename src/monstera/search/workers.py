"""Who evaluates: this process, local processes, or a Ray cluster. A worker that dies costs one attempt, no result."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any, TypeAlias, final

from torch import nn

from monstera.measure.peers import torch_threads
from monstera.sparsity import Plan

Evaluate: TypeAlias = Callable[[nn.Module, Plan], float]
# What is evaluated, a plan or a scheme, and what came out, or why nothing did.
Job: TypeAlias = Callable[[Any], Any]

# How often who waits for a crew looks after other things.
LOOK_S = 2.0
# Deaths of its worker after which a trial is held to be their cause.
ATTEMPTS = 4

# Processes that begin afresh: what this one has opened is not theirs.
_SPAWN = multiprocessing.get_context("spawn")
_UNBEGUN = (
    "other processes died before they had begun; they import the script that runs, so what it does must stand under "
    "`if __name__ == '__main__':`; if it does, there may be too little memory for so many"
)


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What every worker needs to evaluate plans, with so many threads of torch."""

    model: nn.Module
    evaluate: Evaluate
    threads: int = 1

    def __call__(self, plan: Plan) -> float:
        """Return the accuracy of the model with the holes of a plan."""
        with torch_threads(self.threads):
            found = float(self.evaluate(self.model, plan))
        if not 0 <= found <= 1:
            raise ValueError(f"evaluate: expected an accuracy from 0 to 1, got {found}")
        return found


def packed(job: Job) -> bytes:
    """Return a job as bytes for another process.

    Raises:
        TypeError: something in it cannot be pickled.
    """
    try:
        # By value: multiprocessing's own pickling would move the caller's tensors to shared memory.
        return pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as reason:
        raise TypeError(
            f"other processes get model and evaluation by pickle, and these cannot be pickled ({reason}); "
            "define functions at the top of a module, or take workers=1"
        ) from reason


class Crew(ABC):
    """Evaluates plans or schemes, `size` of them at once; what is given beyond that waits."""

    size: int

    @abstractmethod
    def submit(self, number: int, asked: Any) -> None:
        """Begin the evaluation of what has this number."""

    @abstractmethod
    def next(self, timeout_s: float) -> tuple[int, Any] | None:
        """Return a number and what came out, or why nothing did (an Exception); None if neither came in time."""

    @abstractmethod
    def close(self) -> None:
        """Let the workers go, whatever they do."""


@final
class Here(Crew):
    """Evaluates in this very process."""

    size = 1

    def __init__(self, job: Job) -> None:
        self._job = job
        self._given: list[tuple[int, Any]] = []

    def submit(self, number: int, asked: Any) -> None:
        """Note it; it is evaluated when its answer is asked for."""
        self._given.append((number, asked))

    def next(self, timeout_s: float) -> tuple[int, Any] | None:  # noqa: ARG002
        """Evaluate what was given first, however long that takes."""
        if not self._given:
            return None
        number, asked = self._given.pop(0)
        try:
            return number, self._job(asked)
        except Exception as error:  # an answer like any other: whoever asked raises it
            return number, error

    def close(self) -> None:
        """Nothing to let go of."""


@final
class Processes(Crew):
    """Evaluates in local processes, made anew when one of them dies; they end when this process does."""

    def __init__(self, job: Job, size: int) -> None:
        self.size, self._packed = size, packed(job)
        self._begun = _SPAWN.Event()
        self._pool = self._new()
        self._given: dict[Future[Any], tuple[int, Any, int]] = {}

    def submit(self, number: int, asked: Any) -> None:
        """Give it to a free process."""
        self._submit(number, asked, attempt=1)

    def next(self, timeout_s: float) -> tuple[int, Any] | None:
        """Wait for any process.

        Raises:
            RuntimeError: processes died before they had begun, so that it is not their work.
        """
        done, _ = wait(self._given, timeout_s, return_when=FIRST_COMPLETED)
        for future in done:
            number, _, attempt = self._given[future]
            error = future.exception()
            if isinstance(error, BrokenProcessPool) and not self._begun.is_set():
                raise RuntimeError(_UNBEGUN)
            if isinstance(error, BrokenProcessPool) and attempt < ATTEMPTS:
                self._renew()
                return None
            del self._given[future]
            if error is None:
                return number, future.result()
            return number, error if isinstance(error, Exception) else RuntimeError(repr(error))
        return None

    def close(self) -> None:
        """End the processes."""
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()

    def _submit(self, number: int, asked: Any, attempt: int) -> None:
        try:
            future = self._pool.submit(_evaluate, asked)
        except BrokenProcessPool:
            self._renew()
            future = self._pool.submit(_evaluate, asked)
        self._given[future] = number, asked, attempt

    def _renew(self) -> None:
        """Make new processes, and give them what the old ones had; answers that came before the death are kept."""
        self._pool.shutdown(wait=False)
        self._pool = self._new()
        for future in [f for f in self._given if not f.done() or isinstance(f.exception(), BrokenProcessPool)]:
            number, asked, attempt = self._given.pop(future)
            self._submit(number, asked, attempt + 1)

    def _new(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.size, _SPAWN, initializer=_begin, initargs=(self._packed, self._begun))


_JOB: Job | None = None


def _begin(packed_job: bytes, begun: Event) -> None:
    global _JOB
    begun.set()
    _JOB = pickle.loads(packed_job)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Workers wait for work on a pipe that they hold open themselves, so that a killed parent would not end them."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _evaluate(asked: Any) -> Any:
    if _JOB is None:
        raise RuntimeError("this process was given no job")
    return _JOB(asked)


@final
class RayWorkers(Crew):
    """Evaluates as tasks of a Ray cluster: one a CPU. Ray runs a task again whose worker or machine dies.

    Args:
        address: of the cluster; default the one that RAY_ADDRESS or this machine knows, else a new one here.

    Raises:
        ImportError: Ray is not installed.
    """

    def __init__(self, work: Work, address: str | None = None) -> None:
        ray = _ray()
        self._ours = not ray.is_initialized()
        if self._ours:
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        self._ray, self.size = ray, max(1, int(ray.cluster_resources().get("CPU", 1)) // work.threads)
        self._packed = ray.put(packed(work))
        self._task = ray.remote(num_cpus=work.threads, max_retries=ATTEMPTS - 1)(_evaluate_packed)
        self._given: dict[Any, int] = {}

    def submit(self, number: int, asked: Any) -> None:
        """Make it a task."""
        self._given[self._task.remote(self._packed, asked)] = number

    def next(self, timeout_s: float) -> tuple[int, Any] | None:
        """Wait for any task."""
        done, _ = self._ray.wait(list(self._given), num_returns=1, timeout=timeout_s)
        for task in done:
            number = self._given.pop(task)
            try:
                return number, self._ray.get(task)
            except Exception as error:  # an answer like any other: whoever asked raises it
                return number, error
        return None

    def close(self) -> None:
        """Cancel what is not done, and leave a cluster that was made for this."""
        for task in self._given:
            self._ray.cancel(task, force=True)
        if self._ours:
            self._ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ImportError("workers='ray' needs Ray: pip install 'monstera[ray]'") from None
    return ray


def _evaluate_packed(packed_job: bytes, asked: Any) -> Any:
    # A worker evaluates many plans by the same job.
    if _PACKED.get("bytes") != packed_job:
        _PACKED.update(bytes=packed_job, job=pickle.loads(packed_job))
    return _PACKED["job"](asked)


_PACKED: dict[str, Any] = {}
