"""A worker: an interpreter, warm and in its jail, that forks one confined child a program.

It is started by :mod:`driver` as a fresh process (nothing of the caller's memory or environment), with one socket to
the caller. Two kinds share this code: the one that forks the tested programs never sees a test; the one that forks the
checkers runs no tested code.
"""

# The module socket makes half a megabyte of enums, which every program would have to carry.
import _socket
import contextlib
import gc
import importlib
import json
import os
import random
import signal
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from openrlhf_pf.code_reward.judge import codec
from openrlhf_pf.code_reward.sandbox import jail, kernel
from openrlhf_pf.code_reward.sandbox.root import HOME, NULL

if TYPE_CHECKING:
    import socket

MESSAGE_BYTES = 65536
STOP_SECONDS = 60.0

# Loaded once, so that no program pays for them.
USUAL_IMPORTS = """
abc array bisect cmath collections collections.abc contextlib copy enum functools heapq io itertools json math numbers
operator random re string struct time types typing
""".split()

# Loaded, like packages, in a process of their own for programs that import one of them: each adds to the memory of a
# process, and every program pays for all memory of the process that it is forked from.
RARE_IMPORTS = """
ast asyncio base64 calendar dataclasses datetime decimal fractions hashlib inspect locale secrets statistics textwrap
threading traceback unicodedata zlib
""".split()

_WARM_UPS = 100  # the interpreter specialises what has run some dozens of times
_MOST_DIGITS = 100_000  # of a number that a program sends: reading it takes the checker a square of that
_POOL_BYTES, _MOST_HOLES = 16384, 2000  # of one size
_CONTROL, _END_OF_FILES, _MOST_FILES = 3, 256, 4
_ROOM_FOR_FILES = _socket.CMSG_LEN(4 * _MOST_FILES)


def bootstrap(package_root: str) -> str:
    """Code that starts a worker in a bare interpreter."""
    # Last, so that no package next to ours replaces a module of the standard library.
    return (
        f"import sys; sys.path[:] = [*sys.path[1:], {package_root!r}]; "
        "from openrlhf_pf.code_reward.sandbox import worker; sys.path.pop(); worker.main(sys.argv[1])"
    )


def main(argument: str) -> None:
    """Build the jail, say how strong it is, then serve until the caller's socket closes."""
    configuration = json.loads(argument)
    sys.set_int_max_str_digits(0 if configuration["role"].endswith(".candidate") else _MOST_DIGITS)
    sys.argv[:], sys.orig_argv[:] = [""], [sys.executable]  # not for programs to read
    control = _socket.socket(fileno=os.dup2(configuration["control"], _CONTROL))  # whatever number the caller gave it
    os.closerange(_CONTROL + 1, configuration["control"] + 1)
    try:
        role = importlib.import_module(configuration["role"])
        box = _settle(configuration, getattr(role, "warm_up", None))
    except BaseException:
        control.send(codec.encode_plain({"failed": _what_happened()}))
        os._exit(1)
    control.send(codec.encode_plain({"weaknesses": box.weaknesses}))
    try:
        _serve(box, control, role.serve)
    except BaseException:
        with contextlib.suppress(OSError):
            control.send(codec.encode_plain({"failed": _what_happened()}))
    os._exit(0)  # as the first process of its PID namespace it takes everything with it


def _what_happened() -> str:
    import traceback

    return traceback.format_exc()[-4000:]


def _settle(configuration: dict[str, Any], warm_up: Callable[[], None] | None) -> jail.Jail:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.umask(0o022)
    folders = [folder for package in configuration["packages"].values() for folder in package]
    box = jail.enter(folders, configuration["disk_bytes"], frozenset(configuration["without"]))
    box.tested = not configuration["role"].endswith(".checker")
    sys.path += sorted({os.path.dirname(folder) for folder in folders})
    for name in [*USUAL_IMPORTS, *configuration["imports"]]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for _ in range(_WARM_UPS if warm_up else 0):  # a checker has no need: it stays for many programs
        warm_up()
        _renew_standard_files()
    with contextlib.suppress(OSError):  # fewer switches between processes, more programs
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    jail.measure()
    jail.build_root(box)
    os.chdir(HOME if box.private_disk else "/")
    jail.settle(box)
    random.seed(0)  # the same program gets the same reward twice
    gc.collect()
    if warm_up:
        _fill_holes()
    gc.freeze()  # children would copy every page that a collection touches
    return box


_holes: list[bytes] = []


def _fill_holes() -> None:
    """Take what is free on the pages that Python's allocator has begun: what a child makes then lies together, on
    fresh pages, and not strewn over pages that it shares and has to copy.
    """
    for size in range(48, 513, 16):  # its size classes, but the two that are too small for bytes
        for _ in range(_MOST_HOLES):
            _holes.append(bytes(size - sys.getsizeof(b"")))
            if id(_holes[-1]) % _POOL_BYTES < 64:  # right behind the head of a pool: a new one
                break


def _serve(box: jail.Jail, control: _socket.socket, role: Callable[..., None]) -> None:
    """Fork a child for each program, kill it on request, report how it ended; until the caller is gone."""
    last, limits = b"", []
    while True:
        message, ancillary, _, _ = control.recvmsg(MESSAGE_BYTES, _ROOM_FOR_FILES)
        if not message:
            return
        files = memoryview(ancillary[0][2]).cast("i").tolist() if ancillary else []
        if message != last:  # they seldom change
            last, limits = message, jail.resource_limits(box, codec.decode_plain(message))
        child = kernel.fork()
        if child == 0:
            _become_program(box, role, limits, files)
        for file in files:
            os.close(file)
        word = control.recv(MESSAGE_BYTES)  # nothing if the caller is gone: the same as "stop"
        # Only a child that has come to the end of its confinement has a process group, and none can leave it again.
        if word == b"gone" and os.getpgid(child) != child:
            raise OSError("the kernel refuses to confine a program as it did before")
        ended, status, usage = _end(child, word == b"gone")
        jail.clean(box)
        used = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "memory_bytes": usage.ru_maxrss * 1024}
        report = {"status": os.waitstatus_to_exitcode(status), "ended_itself": ended, **used}
        control.send(codec.encode_plain(report))


def _end(child: int, gone: bool) -> tuple[bool, int, Any]:
    """Kill the child, if it has not ended; whether it had, if it is ``gone``: it has closed its socket, and may be
    about to end.
    """
    deadline = time.monotonic() + 1.0 if gone else 0.0
    while gone:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid and not os.WIFSTOPPED(status):
            return True, status, usage
        if time.monotonic() >= deadline:
            break
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return False, *os.wait4(child, 0)[1:]


def _renew_standard_files() -> None:
    """Open them again for each program: flags that one sets on an inherited file would reach its successors."""
    try:
        null = os.open(NULL, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.close(null)
    except OSError:
        pass


def _become_program(
    box: jail.Jail, role: Callable[..., None], limits: list[tuple[int, tuple[int, int]]], files: list[int]
) -> None:
    """The child's whole life; never returns.

    What it does here is paid for by every program: each page that it touches is copied.
    """
    code = 1
    try:
        first = _CONTROL
        for file in files:  # in ascending order, as the kernel numbers them
            os.closerange(first, file)
            first = file + 1
        os.closerange(first, _END_OF_FILES)
        _renew_standard_files()
        jail.confine(box, limits)
        role(*files)
        code = 0
    finally:
        os._exit(code)


class Unavailable(Exception):
    """The sandbox itself failed: no statement about any program."""


class Control:
    """The caller's end of a ``SOCK_SEQPACKET`` connection to a worker's process, named ``who`` in errors.

    The owner (:mod:`driver`) speaks to the process that forks checkers, a checker to the process that forks the tested
    programs. Every method raises ``Unavailable``; the worker is useless after that.
    """

    def __init__(self, connection: "socket.socket", who: str) -> None:
        self.connection = connection
        self._who = who
        connection.settimeout(STOP_SECONDS)

    def start(self, limits: dict[str, Any], files: Sequence[int]) -> None:
        """Have it fork a child that holds these file descriptors."""
        passed = _socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", files)
        self._try(self.connection.sendmsg, [codec.encode_plain(limits)], [passed])

    def stop(self, gone: bool = False) -> None:
        """Have the child killed with all that it started.

        A child that is ``gone`` has closed its socket: it is given a moment to come to its own end.
        """
        self._try(self.connection.send, b"gone" if gone else b"stop")

    def report(self, seconds: float = STOP_SECONDS) -> dict[str, Any]:
        """After :meth:`stop`: how the child ended, and what it used. At the very first: what the jail lacks."""
        self.connection.settimeout(seconds)
        message = self._try(self.connection.recv, MESSAGE_BYTES)
        report = self._try(codec.decode_plain, message) if message else {"failed": "gone"}
        if "failed" not in report:
            return report
        raise Unavailable(f"{self._who} failed: {report['failed']}")

    def _try(self, step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except (OSError, ValueError) as error:
            raise Unavailable(f"{self._who}: {error}") from error
