"""The trusted side: has a program forked, tests it, and alone decides whether it passed.

It runs in a confined process of its own, since test code of a data set is code too and may hang on what it gets; one
such process checks many programs, one after the other.
"""

import contextlib
import os
import random
import signal
import socket
import traceback
from collections.abc import Iterator
from typing import Any

from openrlhf_pf.code_reward.judge import codec, observe
from openrlhf_pf.code_reward.judge.checks import CHECKS, Check, checker_function
from openrlhf_pf.code_reward.judge.objects import raised_by_program
from openrlhf_pf.code_reward.judge.programs import KILLED_BY_LIMIT, Runs, check_programs, closing_files
from openrlhf_pf.code_reward.judge.remote import END, GONE, Decided, Remote
from openrlhf_pf.code_reward.judge.script import cached_by_size
from openrlhf_pf.code_reward.sandbox.worker import Control

KILLED = "killed"  # internal verdict: something outside the sandbox has killed the program


def serve(connection: int, *programs: int) -> None:
    """Take ``(source, limits, place)`` and an encoded problem from the caller, have ``programs[place]`` fork a process
    for the source, check it, and send ``(verdict, test, detail, calls, what it used, marks)``, until the caller is
    gone.

    All arguments are file descriptors of connections.
    """
    caller = socket.socket(fileno=connection)
    controls = [Control(socket.socket(fileno=program), "the candidate worker") for program in programs]
    tasks = codec.Receiver(caller.recv, codec.MAX_TASK_BYTES)
    while True:
        try:
            source, limits, place = tasks.receive()
            problem = tasks.frame()
        except codec.Closed:
            return
        codec.send(caller, _check_one(controls[place], source, *_decoded(problem), limits))


@cached_by_size
def _decoded(problem: bytes) -> tuple[str, dict[str, Any]]:
    """Its kind and data; the samples of one prompt come one after the other, and have the same."""
    return codec.decode(problem)


@contextlib.contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Ends this process where comparing takes for ever, even inside of C code, which no exception would."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _check_one(control: Control, source: str, kind: str, data: dict[str, Any], limits: dict[str, Any]) -> tuple:
    random.seed(0)  # the same program gets the same verdict twice
    if kind in ("stdio", observe.PROGRAMS):
        with _bounded(limits["cpu_seconds"]):
            return _check_whole(control, source, kind, data, limits)
    talk, their_talk = socket.socketpair()
    bell, their_bell = os.pipe()
    with talk, closing_files(bell):
        with their_talk, closing_files(their_bell):
            control.start(limits, [their_talk.fileno(), their_bell])
        remote = Remote(talk, bell, limits["wall_seconds"])
        if kind == observe.FUNCTIONS:
            remote = observe.RecordingRemote(talk, bell, limits["wall_seconds"], as_json=bool(data.get("json")))
        with _bounded(limits["cpu_seconds"]):
            verdict, test, detail = _decide(remote, CHECKS[data.get("of", kind)], source, data)
    control.stop(gone=verdict == GONE)
    report = control.report()
    if verdict == GONE:
        verdict, detail = _how_it_ended(report, detail, limits["cpu_seconds"])
    used = {name: report[name] for name in ("cpu_seconds", "memory_bytes")}
    marks = {"weaker": remote.weaker, "label_at_fault": remote.faulty}
    return verdict, test, detail, remote.calls, used, marks


def _check_whole(control: Control, source: str, kind: str, data: dict[str, Any], limits: dict[str, Any]) -> tuple:
    remote = Remote.without_program()
    runs = Runs(control, source, limits)
    found: tuple[str, int | None, str] | None = None
    try:
        if kind == observe.PROGRAMS:
            tests = observe.check_programs(runs, data)
        else:
            tests = check_programs(runs, data, checker_function(remote, data))
        for remote.test, found in tests:
            remote.calls += 1
            if found:
                break
    except Decided:
        found = remote.decision
    except Exception as error:
        found = "failed", remote.test, f"{type(error).__name__} in the label's checker: {_text(error)}"[:300]
    finally:
        runs.close()
    marks = {"weaker": False, "label_at_fault": remote.faulty}
    return *(found or ("passed", None, "")), remote.calls, runs.used, marks


def _decide(remote: Remote, check: Check, source: str, data: dict[str, Any]) -> tuple[str, int | None, str]:
    try:
        try:
            check(remote, source, data)
        except BaseException as error:
            _decide_by_error(remote, error)
        if not remote.calls:
            remote.test = None
            remote.fault("it never calls the program")
        remote.request(END)  # an answer given twice would arrive here
        remote.verdict("passed", remote.fingerprint() if isinstance(remote, observe.RecordingRemote) else "")
    except Decided:
        return remote.decision or ("crashed", None, "no verdict")
    except Exception:  # the answer to "end" is an error: the program has replaced our side of it
        return remote.decision or ("crashed", None, "an answer to another question")


def _decide_by_error(remote: Remote, error: BaseException) -> None:
    if isinstance(error, Decided):
        raise error
    if raised_by_program(error):
        remote.error(error)
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        remote.fault(f"{type(error).__name__} in {_place(error)}")
    if isinstance(error, AssertionError):
        remote.verdict("failed", f"assertion failed in {_place(error)}")
    remote.verdict("failed", f"{type(error).__name__} in {_place(error)}: {_text(error)}")


def _how_it_ended(report: dict[str, Any], detail: str, cpu_seconds: float) -> tuple[str, str]:
    """What it means that a program closed its socket."""
    if report["ended_itself"] and report["status"] == -signal.SIGKILL:
        if report["cpu_seconds"] >= cpu_seconds * KILLED_BY_LIMIT:
            return "timeout", f"{cpu_seconds} seconds of CPU time are over"
        return KILLED, "the program was killed from outside"
    return "crashed", f"{detail} (status {report['status']})"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _place(error: BaseException) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<test>"]
    return f"line {lines[-1]} of the test" if lines else "the test"
