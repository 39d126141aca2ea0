"""Programs in, results out: a bounded queue in front of warm workers.

A worker is two processes, one that forks tested programs and one that forks their checkers (:mod:`worker`), and one
thread here that drives them through one program at a time.
"""

import atexit
import contextlib
import importlib.util
import json
import logging
import os
import queue
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openrlhf_pf.code_reward import codec, jail, worker
from openrlhf_pf.code_reward.results import Limits, Problem, Result, Verdict

logger = logging.getLogger(__name__)

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_START_SECONDS = 120.0  # an interpreter that imports numpy on a machine that does much else
_STOP_SECONDS = 60.0
_SIGKILL = -9
_GONE = "gone"  # the checker's word for a program that closed its socket


class Unavailable(Exception):
    """The sandbox itself failed: no statement about any program."""


class _Killed(Unavailable):
    """Somebody has killed the program, and it was not us: the kernel short of memory, an operator, or itself."""


class _Half:
    """One of a worker's two processes."""

    def __init__(self, role: str, packages: dict[str, list[str]], disk_bytes: int, without: Iterable[str]) -> None:
        self.role = role
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        configuration = {"role": role, "control": theirs.fileno(), "packages": packages, "disk_bytes": disk_bytes}
        command = jail.interpreter(worker.bootstrap(_PACKAGE_ROOT))
        self.control = ours
        with theirs:
            self.process = subprocess.Popen(
                [*command, json.dumps(configuration | {"without": sorted(without)})],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=jail.environment(),
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # an interrupt at the terminal is ours, not theirs
            )
        self.weaknesses: list[str] | None = None

    def wait_until_ready(self) -> list[str]:
        """Returns what the jail lacks."""
        if self.weaknesses is None:
            self.weaknesses = self._receive(_START_SECONDS)["weaknesses"]
        return self.weaknesses

    def start(self, limits: dict[str, Any], connections: Sequence[socket.socket]) -> None:
        """Have it fork a child that holds these connections."""
        with _or_unavailable(f"the {self.role} worker"):
            files = [connection.fileno() for connection in connections]
            socket.send_fds(self.control, [json.dumps({"limits": limits}).encode()], files)

    def stop(self, gone: bool = False) -> None:
        """Have the child killed with all that it started.

        A child that is ``gone`` has closed its socket: it is given a moment to come to its own end.
        """
        with _or_unavailable(f"the {self.role} worker"):
            self.control.send(b"gone" if gone else b"stop")

    def report(self) -> dict[str, Any]:
        """After :meth:`stop`: how the child ended, and what it used."""
        return self._receive(_STOP_SECONDS)

    def _receive(self, seconds: float) -> dict[str, Any]:
        with _or_unavailable(f"the {self.role} worker"):
            self.control.settimeout(seconds)
            message = self.control.recv(1 << 16)
            self.control.settimeout(None)
            report = json.loads(message) if message else {"failed": "gone"}
        if "failed" not in report:
            return report
        raise Unavailable(f"the {self.role} worker failed: {report['failed']}")

    def close(self) -> None:
        """Kill it and wait for its end; its PID namespace dies with it."""
        self.control.close()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def _or_unavailable(who: str):
    try:
        yield
    except (OSError, ValueError) as error:
        raise Unavailable(f"{who}: {error}") from error


@dataclass
class _Setup:
    limits: Limits
    packages: dict[str, list[str]]
    without: frozenset[str]
    require_isolation: bool


class _Worker:
    """Runs one program after the other."""

    def __init__(self, setup: _Setup) -> None:
        self._setup = setup
        disk_bytes = setup.limits.disk_bytes
        roles = ("candidate", "checker")
        self._halves: list[_Half] = []
        try:
            for role in roles:
                self._halves.append(_Half(role, setup.packages, disk_bytes, setup.without))
            self.weaknesses = sorted({line for half in self._halves for line in half.wait_until_ready()})
        except BaseException:
            self.close()
            raise

    def run(self, source: str, problem: Problem, limits: Limits) -> Result:
        """Raises ``Unavailable``; the worker is of no use after that."""
        candidate, checker = self._halves
        numbers = asdict(limits)
        with contextlib.ExitStack() as stack:
            pairs = [socket.socketpair() for _ in range(2)]
            for connection in (*pairs[0], *pairs[1]):
                stack.enter_context(connection)
            (talk_in, talk_out), (ours, theirs) = pairs
            candidate.start(numbers, [talk_in])
            checker.start(numbers | {"memory_bytes": max(2 << 30, limits.memory_bytes)}, [theirs, talk_out])
            for connection in (talk_in, talk_out, theirs):
                connection.close()  # so that the end of one process is the end of file for the other
            answer = self._converse(ours, source, problem, limits.wall_seconds)
        gone = type(answer) is tuple and answer[0] == _GONE
        candidate.stop(gone)
        checker.stop(gone=True)
        return _judge(answer, candidate.report(), checker.report(), limits)

    def _converse(self, ours: socket.socket, source: str, problem: Problem, seconds: float) -> Any:
        """The checker's word, or None if it has not spoken: out of time, or dead."""
        deadline = time.monotonic() + seconds
        try:
            ours.settimeout(seconds)
            codec.send(ours, (source, problem.kind, problem.data), 4 * codec.MAX_BYTES)
            ours.settimeout(max(0.01, deadline - time.monotonic()))
            return codec.receive(ours)
        except TimeoutError:
            return "timeout"
        except codec.Closed as closed:
            return "timeout" if isinstance(closed.__context__, TimeoutError) else None

    def close(self) -> None:
        for half in self._halves:
            half.close()


def _judge(answer: Any, candidate: dict[str, Any], checker: dict[str, Any], limits: Limits) -> Result:
    used = {name: candidate[name] for name in ("cpu_seconds", "memory_bytes")}
    if answer == "timeout":
        return Result(Verdict.TIMEOUT, detail=f"no end within {limits.wall_seconds} seconds", **used)
    if answer is None:
        if checker["status"] == _SIGKILL and checker["cpu_seconds"] >= limits.cpu_seconds * 0.9:
            return Result(Verdict.TIMEOUT, detail="comparing the answers took too long", **used)
        raise Unavailable(f"the checker ended without a word, with status {checker['status']}")
    verdict, test, detail, calls = answer
    if verdict != _GONE:
        return Result(Verdict(verdict), test, detail, calls, **used)
    if candidate["ended_itself"] and candidate["status"] == _SIGKILL:
        if candidate["cpu_seconds"] >= limits.cpu_seconds * 0.9:
            detail = f"{limits.cpu_seconds} seconds of CPU time are over"
            return Result(Verdict.TIMEOUT, test, detail, calls, **used)
        raise _Killed("the program was killed from outside")
    return Result(Verdict.CRASHED, test, f"{detail} (status {candidate['status']})", calls, **used)


def find_packages(names: Iterable[str]) -> dict[str, list[str]]:
    """The folders of installed packages, without importing one: shown to programs read-only, loaded once a worker."""
    found = {}
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec and spec.submodule_search_locations:
            folders = [folder for place in spec.submodule_search_locations for folder in (place, f"{place}.libs")]
            found[name] = [folder for folder in folders if os.path.isdir(folder)]
    return found


class Pool:
    """Checks programs in sandboxes. Thread-safe; to be closed, or used in a ``with`` statement.

    Args:
        workers: programs at a time.
        limits: what one program may use.
        require_isolation: refuse to run where the kernel grants less than the whole jail.
        packages: what programs may import beside the standard library; those not installed are left out.
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
        self._setup = _Setup(self.limits, find_packages(packages), frozenset(without), require_isolation)
        self._retries = retries
        self._queue: queue.Queue = queue.Queue(queue_size)
        self._closed = False
        self._lock = threading.Lock()
        first = _Worker(self._setup)
        self.weaknesses: tuple[str, ...] = tuple(first.weaknesses)
        self._report(first)
        places: list[_Worker | None] = [first, *[None] * (workers - 1)]
        self._threads = [
            threading.Thread(target=self._work, args=(place,), name="code-reward", daemon=True) for place in places
        ]
        for thread in self._threads:
            thread.start()
        _open_pools.add(self)

    def _start_worker(self) -> _Worker:
        started = _Worker(self._setup)
        if not set(started.weaknesses) <= set(self.weaknesses):
            started.close()
            raise Unavailable(f"a new worker is weaker than the first: {'; '.join(started.weaknesses)}")
        return started

    def _report(self, first: _Worker) -> None:
        if not self.weaknesses:
            return
        what = "; ".join(self.weaknesses)
        if self._setup.require_isolation:
            first.close()
            raise ValueError(f"this machine does not isolate tested programs as require_isolation asks: {what}.")
        logger.warning("THE CODE SANDBOX IS WEAKER THAN IT SHOULD BE: %s", what)

    def submit(self, source: str, problem: Problem, limits: Limits | None = None) -> "Future[Result]":
        """Queue a program; waits while the queue is full. The future never holds an exception for bad code."""
        if self._closed:
            raise ValueError("the pool is closed: open a new one.")
        future: Future[Result] = Future()
        self._queue.put((future, source, problem, limits or self.limits))
        return future

    def check(self, source: str, problem: Problem, limits: Limits | None = None) -> Result:
        """Check one program and wait for its result."""
        return self.submit(source, problem, limits).result()

    def check_all(self, programs: Iterable[tuple[str, Problem]]) -> list[Result]:
        """Check many programs; results in their order."""
        return [future.result() for future in [self.submit(*program) for program in programs]]

    def _work(self, place: _Worker | None) -> None:
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
        self, place: _Worker | None, source: str, problem: Problem, limits: Limits
    ) -> tuple[Result, _Worker | None]:
        for attempt in range(1 + self._retries):
            try:
                place = place or self._start_worker()
                result = place.run(source, problem, limits)
                return result, place
            except codec.NotPlain as error:  # before anything was sent
                place = self._discard(place)
                return Result(Verdict.FAILED, detail=f"program or tests cannot be sent: {error}"), place
            except Exception as error:  # whatever it is, it says nothing about the program
                detail = f"{type(error).__name__}: {error}"
                logger.warning("the code sandbox failed, attempt %s of %s: %s", attempt + 1, 1 + self._retries, detail)
                place, killed = self._discard(place), isinstance(error, _Killed)
        # What kills this program every time is the program's own doing.
        return Result(Verdict.CRASHED if killed else Verdict.INFRASTRUCTURE, detail=detail), None

    @staticmethod
    def _discard(place: _Worker | None) -> None:
        if place:
            place.close()

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

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


_open_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for pool in list(_open_pools):
        pool.close()
