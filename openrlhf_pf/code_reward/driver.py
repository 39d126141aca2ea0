"""One worker as its owner sees it: two processes, driven through one program at a time, and what became of it."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openrlhf_pf.code_reward import codec, jail, worker
from openrlhf_pf.code_reward.results import Limits, Problem, Result, Verdict

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_START_SECONDS = 120.0  # an interpreter that imports numpy on a machine that does much else
_STOP_SECONDS = 60.0
_SIGKILL = -9
_GONE = "gone"  # the checker's word for a program that closed its socket


class Unavailable(Exception):
    """The sandbox itself failed: no statement about any program."""


class Killed(Unavailable):
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
def _or_unavailable(who: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise Unavailable(f"{who}: {error}") from error


@dataclass
class Setup:
    """What all workers of a pool have in common."""

    limits: Limits
    packages: dict[str, list[str]]
    without: frozenset[str]
    require_isolation: bool


class Worker:
    """Runs one program after the other."""

    def __init__(self, setup: Setup) -> None:
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
        """Kill both processes and wait for their ends."""
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
        raise Killed("the program was killed from outside")
    return Result(Verdict.CRASHED, test, f"{detail} (status {candidate['status']})", calls, **used)
