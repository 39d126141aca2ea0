"""Programs in, results out: a bounded queue in front of warm workers.

A worker is two processes, one that forks the tested programs and one that forks checkers (:mod:`worker`), and one
thread here that drives them through one program at a time (:mod:`driver`).
"""

import atexit
import importlib.metadata
import importlib.util
import logging
import os
import queue
import re
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from openrlhf_pf.code_reward.judge import codec
from openrlhf_pf.code_reward.results import Limits, Problem, Result, Verdict
from openrlhf_pf.code_reward.sandbox import jail
from openrlhf_pf.code_reward.sandbox.driver import Killed, Setup, Worker
from openrlhf_pf.code_reward.sandbox.worker import Unavailable

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)


def find_packages(names: Iterable[str]) -> dict[str, list[str]]:
    """The folders and files of installed packages and of what they need, without importing one: shown to programs
    read-only, loaded once a worker.
    """
    found: dict[str, list[str]] = {}
    for name in _with_needs(names):
        spec = importlib.util.find_spec(name)
        if spec and spec.submodule_search_locations:
            folders = [folder for place in spec.submodule_search_locations for folder in (place, f"{place}.libs")]
            found[name] = [folder for folder in folders if os.path.isdir(folder)]
        elif spec and spec.origin and spec.origin.endswith((".py", ".so")):
            found[name] = [spec.origin]
    return found


def _with_needs(names: Iterable[str]) -> list[str]:
    """These packages and, as their installers have noted, those that they need."""
    found = list(dict.fromkeys(names))
    if set(found) <= {"numpy"}:  # which needs nothing
        return found
    owners = importlib.metadata.packages_distributions()
    names_of: dict[str, list[str]] = {}
    for name, distributions in owners.items():
        for distribution in distributions:
            names_of.setdefault(re.sub(r"[-_.]+", "-", distribution).lower(), []).append(name)
    for name in found:  # which grows
        for distribution in owners.get(name, ()):
            for need in importlib.metadata.requires(distribution) or ():
                if "extra ==" not in need:
                    bare = re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", need.strip(), maxsplit=1)[0]).lower()
                    found += [other for other in names_of.get(bare, ()) if other not in found and other.isidentifier()]
    return found


def label_at_fault(problem: Problem) -> Result | None:
    """The result of every program of a problem whose tests cannot be sent; None if they can."""
    try:
        problem.encoded  # noqa: B018
    except codec.NotPlain as error:
        detail = f"the label's test is at fault: it cannot be sent: {error}"
        return Result(Verdict.INFRASTRUCTURE, detail=detail, label_at_fault=True)
    return None


class AnyPool(ABC):
    """What checks programs, on this machine (:class:`Pool`) or on many (:class:`~.ray_pool.RayPool`).

    Attributes:
        limits: what one program may use.
        weaknesses: what the jail lacks, a sentence each.
    """

    limits: Limits
    weaknesses: tuple[str, ...]

    @abstractmethod
    def submit(self, source: str, problem: Problem, limits: Limits | None = None) -> "Future[Result]":
        """Queue a program; waits while the queue is full. The future never holds an exception for bad code."""

    @abstractmethod
    def close(self) -> None:
        """Finish what is queued, then end."""

    def check(self, source: str, problem: Problem, limits: Limits | None = None) -> Result:
        """Check one program and wait for its result."""
        return self.submit(source, problem, limits).result()

    def check_all(self, programs: Iterable[tuple[str, Problem]]) -> list[Result]:
        """Check many programs; results in their order."""
        return [future.result() for future in [self.submit(*program) for program in programs]]

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Pool(AnyPool):
    """Checks programs in sandboxes. Thread-safe; to be closed, or used in a ``with`` statement.

    Args:
        workers: programs at a time.
        limits: what one program may use.
        require_isolation: refuse to run where the kernel grants less than the whole jail.
        packages: what programs may import in addition to the standard library; those not installed are left out.
        queue_size: programs that wait before :meth:`submit` does.
        retries: how often a program is run again after the sandbox itself failed.
        without: parts of the jail to leave out, of ``jail.PARTS``, for tests of what is left.

    Raises:
        ValueError: an argument is out of its range, or ``require_isolation`` cannot be had.
        Unavailable: no worker starts at all.
    """

    def __init__(
        self,
        workers: int = 2,
        limits: Limits | None = None,
        require_isolation: bool = False,
        packages: Sequence[str] = ("numpy",),
        queue_size: int = 64,
        retries: int = 2,
        without: Iterable[str] = (),
    ) -> None:
        if workers < 1 or queue_size < 1 or retries < 0:
            raise ValueError("a pool needs workers >= 1, queue_size >= 1 and retries >= 0.")
        if unknown := sorted(set(without) - set(jail.PARTS)):
            raise ValueError(f"{unknown[0]!r} is no part of the jail: choose from {', '.join(jail.PARTS)}.")
        self.limits = limits or Limits()
        self._setup = Setup(self.limits, find_packages(packages), frozenset(without))
        self._retries = retries
        self._queue: queue.Queue = queue.Queue(queue_size)
        self._closed = False
        self._lock = threading.Lock()
        first = Worker(self._setup)
        self.weaknesses: tuple[str, ...] = tuple(first.weaknesses)
        if what := "; ".join(self.weaknesses):
            if require_isolation:
                first.close()
                raise ValueError(f"this machine does not isolate tested programs as require_isolation asks: {what}.")
            logger.warning("THE CODE SANDBOX IS WEAKER THAN IT SHOULD BE: %s", what)
        places: list[Worker | None] = [first, *[None] * (workers - 1)]
        self._threads = [
            threading.Thread(target=self._work, args=(place,), name="code-reward", daemon=True) for place in places
        ]
        for thread in self._threads:
            thread.start()
        _open_pools.add(self)

    def _start_worker(self) -> Worker:
        started = Worker(self._setup)
        if not set(started.weaknesses) <= set(self.weaknesses):
            started.close()
            raise Unavailable(f"a new worker is weaker than the first: {'; '.join(started.weaknesses)}")
        return started

    def submit(self, source: str, problem: Problem, limits: Limits | None = None) -> "Future[Result]":
        """Queue a program; waits while the queue is full. The future never holds an exception for bad code."""
        if self._closed:
            raise ValueError("the pool is closed: open a new one.")
        future: Future[Result] = Future()
        self._queue.put((future, source, problem, limits or self.limits))
        return future

    def _work(self, place: Worker | None) -> None:
        while (item := self._queue.get()) is not None:
            future, *program = item
            if not future.set_running_or_notify_cancel():
                continue
            result, place = self._attempt(place, *program)
            future.set_result(result)
            del item, future, program, result
        if place:
            place.close()

    def _attempt(
        self, place: Worker | None, source: str, problem: Problem, limits: Limits
    ) -> tuple[Result, Worker | None]:
        if fault := label_at_fault(problem):
            return fault, place
        for attempt in range(1 + self._retries):
            try:
                place = place or self._start_worker()
                result = place.run(source, problem, limits)
                if place.spent:
                    place.close()
                return result, None if place.spent else place
            except codec.NotPlain as error:
                return Result(Verdict.FAILED, detail=f"the program cannot be sent: {error}"), place
            except Exception as error:  # no statement about the program
                detail = f"{type(error).__name__}: {error}"
                logger.warning("the code sandbox failed, attempt %s of %s: %s", attempt + 1, 1 + self._retries, detail)
                killed = isinstance(error, Killed)
                if place:
                    place.close()
                place = None
        # What kills this program every time is the program's own doing.
        return Result(Verdict.CRASHED if killed else Verdict.INFRASTRUCTURE, detail=detail), None

    def close(self) -> None:
        """Finish what is queued, then end all workers; nothing of them is left when this returns."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        _open_pools.discard(self)


_open_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for pool in list(_open_pools):
        pool.close()
