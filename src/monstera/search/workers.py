"""Who evaluates: this process, local processes, or a Ray cluster. A worker that dies costs one attempt, no result."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import nn

from monstera.sparsity import Plan

Evaluate: TypeAlias = Callable[[nn.Module, Plan], float]
Answer: TypeAlias = float | Exception

# Deaths of its worker after which a trial is held to be their cause.
ATTEMPTS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What every worker needs to evaluate plans, with so many threads of torch."""

    model: nn.Module
    evaluate: Evaluate
    threads: int = 1

    def __call__(self, plan: Plan) -> float:
        """Return the accuracy of the model with the holes of a plan."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            found = float(self.evaluate(self.model, plan))
        finally:
            torch.set_num_threads(before)
        if not 0 <= found <= 1:
            raise ValueError(f"evaluate: expected an accuracy from 0 to 1, got {found}")
        return found

    def packed(self) -> bytes:
        """Return it as bytes for another process.

        Raises:
            TypeError: something in it cannot be pickled.
        """
        try:
            # By value: multiprocessing's own pickling would move the caller's tensors to shared memory.
            return pickle.dumps(self)
        except (pickle.PicklingError, AttributeError, TypeError) as reason:
            raise TypeError(
                f"other processes get model and evaluation by pickle, and these cannot be pickled ({reason}); "
                "define functions at the top of a module, or take workers=1"
            ) from reason


class Crew(ABC):
    """Evaluates plans, at most `size` at once."""

    size: int

    @abstractmethod
    def submit(self, number: int, plan: Plan) -> None:
        """Begin the evaluation of a trial."""

    @abstractmethod
    def next(self, timeout_s: float) -> tuple[int, Answer] | None:
        """Return the number of a trial and what came out, or None if nothing did in time."""

    @abstractmethod
    def close(self) -> None:
        """Let the workers go, whatever they do."""


@final
class Here(Crew):
    """Evaluates in this very process."""

    size = 1

    def __init__(self, work: Work) -> None:
        self._work = work
        self._given: list[tuple[int, Plan]] = []

    def submit(self, number: int, plan: Plan) -> None:
        """Note the plan; it is evaluated when its answer is asked for."""
        self._given.append((number, plan))

    def next(self, timeout_s: float) -> tuple[int, Answer] | None:  # noqa: ARG002
        """Evaluate the plan, however long that takes."""
        if not self._given:
            return None
        number, plan = self._given.pop(0)
        try:
            return number, self._work(plan)
        except Exception as error:  # an answer like any other: whoever asked raises it
            return number, error

    def close(self) -> None:
        """Nothing to let go of."""


@final
class Processes(Crew):
    """Evaluates in local processes, made anew when one of them dies; they end when this process does."""

    def __init__(self, work: Work, size: int) -> None:
        self.size, self._packed = size, work.packed()
        self._pool = self._new()
        self._given: dict[Future[float], tuple[int, Plan, int]] = {}

    def submit(self, number: int, plan: Plan) -> None:
        """Give the plan to a free process."""
        self._submit(number, plan, attempt=1)

    def next(self, timeout_s: float) -> tuple[int, Answer] | None:
        """Wait for any process."""
        done, _ = wait(self._given, timeout_s, return_when=FIRST_COMPLETED)
        for future in done:
            number, _, attempt = self._given[future]
            error = future.exception()
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

    def _submit(self, number: int, plan: Plan, attempt: int) -> None:
        try:
            future = self._pool.submit(_evaluate, plan)
        except BrokenProcessPool:
            self._renew()
            future = self._pool.submit(_evaluate, plan)
        self._given[future] = number, plan, attempt

    def _renew(self) -> None:
        """Make new processes, and give them what the old ones had; answers that came before the death are kept."""
        self._pool.shutdown(wait=False)
        self._pool = self._new()
        for future in [f for f in self._given if not f.done() or isinstance(f.exception(), BrokenProcessPool)]:
            number, plan, attempt = self._given.pop(future)
            self._submit(number, plan, attempt + 1)

    def _new(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.size, context, initializer=_begin, initargs=(self._packed, os.getpid()))


_WORK: Work | None = None


def _begin(packed: bytes, parent: int) -> None:
    global _WORK
    _WORK = pickle.loads(packed)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent does, which a pool whose parent was killed would not notice."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _evaluate(plan: Plan) -> float:
    if _WORK is None:
        raise RuntimeError("this process was given no work to evaluate plans with")
    return _WORK(plan)


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
        self._packed = ray.put(work.packed())
        self._task = ray.remote(num_cpus=work.threads, max_retries=ATTEMPTS - 1)(_evaluate_packed)
        self._given: dict[Any, int] = {}

    def submit(self, number: int, plan: Plan) -> None:
        """Make the plan a task."""
        self._given[self._task.remote(self._packed, plan)] = number

    def next(self, timeout_s: float) -> tuple[int, Answer] | None:
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


def _evaluate_packed(packed: bytes, plan: Plan) -> float:
    # A worker evaluates many plans with the same work.
    if _PACKED.get("work") is None or _PACKED["bytes"] != packed:
        _PACKED.update(bytes=packed, work=pickle.loads(packed))
    return _PACKED["work"](plan)


_PACKED: dict[str, Any] = {}
