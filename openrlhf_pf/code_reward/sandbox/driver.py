"""One worker as its owner sees it: processes that are driven through one program at a time.

One forks the tested programs; another forks a checker, which has the first fork a process for each program, examines
it, and reports the verdict. A third, started when it is first needed, forks programs that want numpy or other rare
imports.
"""

import json
import re
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openrlhf_pf.code_reward.judge import checker, codec
from openrlhf_pf.code_reward.results import Limits, Problem, Result, Verdict
from openrlhf_pf.code_reward.sandbox import jail, worker
from openrlhf_pf.code_reward.sandbox.worker import Control, Unavailable

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])
_ROLES = {"checker": "judge.checker", "candidate": "sandbox.candidate"}
_START_SECONDS = 120.0  # an interpreter that imports numpy on a machine that does much else
_GRACE_SECONDS = 10.0  # for the checker to speak after a program's time is over
_CHECKER_MEMORY = 2 << 30
_PROGRAMS_A_CHECKER = 1000  # a data set's test code may leave something behind in its process: not for ever


class Killed(Unavailable):
    """Somebody has killed the program, and it was not us: the kernel short of memory, an operator, or itself."""


class _Half:
    """One of a worker's processes."""

    def __init__(self, role: str, setup: "Setup", imports: Sequence[str] = ()) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control, module = theirs.fileno(), f"openrlhf_pf.code_reward.{_ROLES[role]}"
        configuration = {"role": module, "control": control, "packages": setup.packages, "imports": list(imports)}
        configuration |= {"disk_bytes": setup.limits.disk_bytes, "without": sorted(setup.without)}
        command = [*jail.interpreter(worker.bootstrap(_PACKAGE_ROOT)), json.dumps(configuration)]
        standard_files = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        self.control = Control(ours, f"the {role} worker")
        with theirs:  # an interrupt at the terminal is ours, not theirs: a session of its own
            more = {"env": jail.environment(), "cwd": "/", "pass_fds": [control], "start_new_session": True}
            self.process = subprocess.Popen(command, **standard_files, **more)

    def close(self) -> None:
        """Kill it and wait for its end; its PID namespace dies with it."""
        self.control.connection.close()
        self.process.kill()
        self.process.wait()


@dataclass
class Setup:
    """What all workers of a pool have in common."""

    limits: Limits
    packages: dict[str, list[str]]
    without: frozenset[str]


class Worker:
    """Runs one program after the other.

    Attributes:
        weaknesses: what its jail lacks, a sentence each.
        spent: it is to be closed, and another one to be started.
    """

    def __init__(self, setup: Setup) -> None:
        self.spent = False
        self._setup = setup
        self._rare_imports = [*worker.RARE_IMPORTS, *setup.packages]
        self._rare = re.compile(rf"\b(?:{'|'.join(map(re.escape, self._rare_imports))})\b")
        self._halves: list[_Half] = []
        self._checker: socket.socket | None = None
        self._programs_left = 0
        try:
            for role in ("checker", "candidate"):
                self._halves.append(_Half(role, setup))
            ready = [half.control.report(_START_SECONDS)["weaknesses"] for half in self._halves]
            self.weaknesses = sorted({line for lines in ready for line in lines})
        except BaseException:
            self.close()
            raise

    def run(self, source: str, problem: Problem, limits: Limits) -> Result:
        """Raises ``Unavailable``; the worker is of no use after that.

        Raises ``codec.NotPlain`` before anything has happened.
        """
        limits = problem.limited(limits)
        place = int(any("import" in line and self._rare.search(line) for line in source.splitlines()))
        task = codec.encode((source, limits.as_dict, place), codec.MAX_TASK_BYTES), problem.encoded
        connection = self._running_checker(with_rare_imports=bool(place))
        try:
            connection.settimeout(limits.wall_seconds + _GRACE_SECONDS)
            codec.send_encoded(connection, *task)
            verdict, test, detail, calls, used, marks = codec.Receiver(connection.recv).receive()
        except TimeoutError:
            self.spent = True
            return Result(Verdict.TIMEOUT, detail=f"the tests have no end within {limits.wall_seconds} seconds")
        except codec.Closed:
            return self._checker_is_gone()
        if verdict == checker.KILLED:
            raise Killed(detail)
        self._programs_left -= 1
        return Result(Verdict(verdict), test, detail, calls, **used, **marks)

    def _running_checker(self, with_rare_imports: bool) -> socket.socket:
        if with_rare_imports and len(self._halves) < 3:
            self._halves.append(_Half("candidate", self._setup, self._rare_imports))
            if not set(self._halves[-1].control.report(_START_SECONDS)["weaknesses"]) <= set(self.weaknesses):
                raise Unavailable("a process is weaker than the ones before")
            self._programs_left = 0
        checkers, *candidates = (half.control for half in self._halves)
        if self._checker and not self._programs_left:
            self._checker.close()
            checkers.stop(gone=True)
            checkers.report()
            self._checker = None
        if self._checker is None:
            self._checker, theirs = socket.socketpair()
            with theirs:
                limits = Limits(memory_bytes=_CHECKER_MEMORY).as_dict | {"cpu_seconds": None}
                checkers.start(limits, [theirs.fileno(), *(control.connection.fileno() for control in candidates)])
            self._programs_left = _PROGRAMS_A_CHECKER
        return self._checker

    def _checker_is_gone(self) -> Result:
        checkers = self._halves[0].control
        checkers.stop(gone=True)
        status = checkers.report()["status"]
        if status != -signal.SIGPROF:
            raise Unavailable(f"the checker ended without a verdict, with status {status}")
        self.spent = True
        return Result(Verdict.TIMEOUT, detail="comparing the answers took too long")

    def close(self) -> None:
        """Kill all its processes and wait for their ends."""
        if self._checker:
            self._checker.close()
        for half in self._halves:
            half.close()
