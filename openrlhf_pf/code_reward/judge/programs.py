"""Whole programs, run as ``python3 program < input`` runs them: a process a test, judged by what it prints and by how
it ends.
"""

import math
import os
import re
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from openrlhf_pf.code_reward.judge import codec
from openrlhf_pf.code_reward.judge.remote import MAX_MESSAGE, error_verdict

Outcome = tuple[str, int | None, str]
_AT_ONCE = 1 << 16
# The share of its CPU time above which a killed program was killed by its limit: the kernel counts in ticks for that,
# which on a busy machine are more than the time that it reports.
KILLED_BY_LIMIT = 0.5
# Tolerances of printed numbers with a point or an exponent, unless the label gives one.
_RELATIVE, _ABSOLUTE = 1e-9, 1e-12


class Runs:
    """Runs one program on one input after the other.

    Attributes:
        used: CPU seconds and memory of all of them.
    """

    def __init__(self, control: Any, source: str, limits: dict[str, Any]) -> None:
        self._control, self._source, self._limits = control, source, limits
        self._deadline = time.monotonic() + limits["wall_seconds"]
        self._input = os.memfd_create("input")
        self.used = {"cpu_seconds": 0.0, "memory_bytes": 0}

    def close(self) -> None:
        """Give back what it holds."""
        os.close(self._input)

    def run(self, text: str) -> tuple[str, str, str]:
        """A verdict, its detail, and what the program printed; ``passed`` if it ended normally."""
        os.ftruncate(self._input, 0)
        os.lseek(self._input, 0, os.SEEK_SET)
        data = text.encode("utf-8", "surrogatepass")
        while data:
            data = data[os.write(self._input, data) :]
        os.lseek(self._input, 0, os.SEEK_SET)
        left = self._limits["cpu_seconds"] - self.used["cpu_seconds"]
        most = min(left, self._limits["test_cpu_seconds"])
        limits = self._limits | {"cpu_seconds": max(1, math.ceil(most))}
        talk, their_talk = socket.socketpair()
        output, their_output = os.pipe()
        bell, their_bell = os.pipe()
        with talk, closing_files(output, bell):
            with their_talk, closing_files(their_output, their_bell):
                self._control.start(limits, [their_talk.fileno(), their_bell, self._input, their_output])
            problem, printed = self._listen(talk, output, bell)
            self._control.stop(gone=not problem)
            report = self._control.report()
            last_error = _last_error(talk)
        self.used["cpu_seconds"] += report["cpu_seconds"]
        self.used["memory_bytes"] = max(self.used["memory_bytes"], report["memory_bytes"])
        verdict, detail = problem or self._ended(report, last_error, limits["cpu_seconds"])
        return verdict, detail, printed.decode("utf-8", "replace")

    def _listen(self, talk: socket.socket, output: int, bell: int) -> tuple[tuple[str, str] | None, bytes]:
        """What it prints until it is over; and what is wrong, if it has to be ended."""
        message = codec.encode_plain(("0" * 16, [("run", self._source)]))
        talk.settimeout(max(0.001, self._deadline - time.monotonic()))
        with suppress(codec.Closed, TimeoutError):
            codec.send_encoded(talk, message)
        printed, most = bytearray(), self._limits["output_bytes"]
        waiting = select.poll()
        waiting.register(output, select.POLLIN)
        waiting.register(bell, select.POLLIN)
        while True:
            left = self._deadline - time.monotonic()
            ready = dict(waiting.poll(1000 * max(0.0, left)))
            if not ready:
                return ("timeout", f"no end within {self._limits['wall_seconds']} seconds"), bytes(printed)
            if output in ready:
                part = os.read(output, _AT_ONCE)
                printed += part
                if len(printed) > most:
                    return ("failed", f"printed more than {most} bytes"), bytes(printed)
                if not part:
                    waiting.unregister(output)
            elif bell in ready:
                return None, bytes(printed)

    def _ended(self, report: dict[str, Any], last_error: tuple[str, str], cpu_seconds: int) -> tuple[str, str]:
        kind, text = last_error
        killed = report["status"] == -signal.SIGKILL
        most = min(self._limits["test_cpu_seconds"] * 0.98, cpu_seconds * (KILLED_BY_LIMIT if killed else 1))
        if report["cpu_seconds"] >= most:
            return "timeout", f"{report['cpu_seconds']:.1f} seconds of CPU time in one test"
        if self.used["cpu_seconds"] > self._limits["cpu_seconds"]:
            return "timeout", f"{self._limits['cpu_seconds']} seconds of CPU time are over"
        if not report["ended_itself"] or killed:
            return "killed", "the program was killed from outside"
        if report["status"] < 0:
            return "crashed", f"the program was ended by signal {-report['status']}"
        if report["status"] == 0 and not kind:
            return "passed", ""
        return error_verdict(kind, text or f"exit status {report['status']}", loading=True)


def check_programs(
    runs: Runs, data: dict[str, Any], checker: Callable[[Any, Any, Any], Any] | None
) -> Iterator[tuple[int, Outcome | None]]:
    """The outcome of each test, if it is not a pass: ``cases`` of (standard input, standard output), ``tolerance``."""
    tolerance = data.get("tolerance")
    for test, (text, expected) in enumerate(data["cases"]):
        verdict, detail, printed = runs.run(text)
        if verdict != "passed":
            yield test, (verdict, test, detail[:MAX_MESSAGE])
            return
        right = checker(text, printed, expected) if checker else is_equal_output(printed, expected, tolerance)
        yield test, None if right else ("failed", test, f"printed {printed!r:.100}")


def _last_error(talk: socket.socket) -> tuple[str, str]:
    """The exception that ended the program, in its own words."""
    talk.setblocking(False)
    try:
        kind, text = codec.Receiver(talk.recv, 8192).receive()
        return str(kind)[:80], str(text)[:MAX_MESSAGE]
    except (codec.Closed, codec.NotPlain, OSError, ValueError, TypeError):
        return "", ""


@contextmanager
def closing_files(*files: int) -> Iterator[None]:
    """Close these file descriptors in the end."""
    try:
        yield
    finally:
        for file in files:
            os.close(file)


# Digits with a point, or with an exponent that has a sign, as programs print numbers: 9e4821 is rather a hash.
_DECIMAL = re.compile(r"[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]\d+)")


def is_equal_output(got: str, expected: str, tolerance: float | None = None) -> bool:
    """Whether two texts have the same lines, without blanks at their ends and empty lines at the end.

    Numbers with a point or an exponent are equal within a tolerance, whatever their digits: ``None`` is 1e-9 of the
    expected one. Whole numbers are equal as text; with a tolerance, a whole number may be printed with a point.
    """

    def is_equal_line(one: str, other: str) -> bool:
        left, right = one.split(), other.split()
        return len(left) == len(right) and all(
            a == b or _is_equal_number(a, b, tolerance) for a, b in zip(left, right)
        )

    lines, wanted = printed_lines(got), printed_lines(expected)
    return len(lines) == len(wanted) and all(a == b or is_equal_line(a, b) for a, b in zip(lines, wanted))


def printed_lines(text: str) -> list[str]:
    """Return the lines of a text, without blanks at their ends and empty lines at the end."""
    return [line.rstrip() for line in text.replace("\r\n", "\n").rstrip().split("\n")]


def _is_equal_number(got: str, expected: str, tolerance: float | None) -> bool:
    if len(got) > 400 or len(expected) > 400 or "_" in got or not got.isascii():
        return False
    if not _DECIMAL.fullmatch(expected) and (tolerance is None or not _DECIMAL.fullmatch(got)):
        return False
    try:
        left, right = float(got), float(expected)
    except ValueError:
        return False
    relative, absolute = (_RELATIVE, _ABSOLUTE) if tolerance is None else (tolerance, tolerance)
    return (
        math.isfinite(left) and math.isfinite(right) and math.isclose(left, right, rel_tol=relative, abs_tol=absolute)
    )
