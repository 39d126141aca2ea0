"""A worker: an interpreter, warm and in its jail, that forks one confined child a program.

It is started by :mod:`pool` as a fresh process (nothing of the caller's memory or environment), with one socket to the
caller. Two kinds share this code: the one that forks the tested programs never sees a test; the one that forks the
checkers runs no tested code.
"""

import contextlib
import gc
import importlib
import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from openrlhf_pf.code_reward import candidate, checker, jail

ROLES: dict[str, Callable[[socket.socket, list[socket.socket]], None]] = {
    "candidate": lambda talk, others: candidate.serve(talk),
    "checker": lambda talk, others: checker.serve(talk, others[0]),
}

# Loaded once, so that no program pays for them. Those that are missing here are missing for programs too.
USUAL_IMPORTS = """
abc array ast asyncio base64 bisect calendar cmath collections collections.abc contextlib copy dataclasses datetime
decimal enum fractions functools hashlib heapq io itertools json locale math numbers operator random re secrets
statistics string struct textwrap threading time traceback types typing unicodedata zlib
""".split()

_MESSAGE_BYTES = 65536


def bootstrap(package_root: str) -> str:
    """Code that starts a worker in a bare interpreter."""
    # Last, so that no package beside ours stands in for a module of the standard library.
    return (
        f"import sys; sys.path[:] = [*sys.path[1:], {package_root!r}]; "
        "from openrlhf_pf.code_reward import worker; sys.path.pop(); worker.main(sys.argv[1])"
    )


def main(argument: str) -> None:
    """Build the jail, say how strong it is, then serve until the caller's socket closes."""
    configuration = json.loads(argument)
    control = socket.socket(fileno=configuration["control"])
    try:
        box = _settle(configuration)
    except BaseException:
        control.send(json.dumps({"failed": traceback.format_exc()[-4000:]}).encode())
        os._exit(1)
    control.send(json.dumps({"ready": True, "weaknesses": box.weaknesses}).encode())
    try:
        while _serve_one(box, control, configuration):
            pass
    except BaseException:
        with contextlib.suppress(OSError):
            control.send(json.dumps({"failed": traceback.format_exc()[-4000:]}).encode())
    os._exit(0)  # as the first process of its PID namespace it takes everything with it


def _settle(configuration: dict[str, Any]) -> jail.Jail:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.umask(0o022)
    folders = [folder for package in configuration["packages"].values() for folder in package]
    box = jail.enter(folders, configuration["disk_bytes"], frozenset(configuration["without"]))
    sys.path += sorted({os.path.dirname(folder) for folder in folders})
    for name in [*USUAL_IMPORTS, *configuration["packages"]]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    jail.measure()
    jail.build_root(box)
    os.chdir(jail.HOME if box.private_disk else "/")
    jail.check_programs_side(box)
    gc.collect()
    gc.freeze()  # children would copy every page that a collection touches
    return box


def _receive(control: socket.socket) -> tuple[dict[str, Any] | None, list[socket.socket]]:
    message, files, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 4)
    return (json.loads(message) if message else None), [socket.socket(fileno=file) for file in files]


def _serve_one(box: jail.Jail, control: socket.socket, configuration: dict[str, Any]) -> bool:
    """Fork a child for one program, have it killed when told to, report how it ended. False: the caller is gone."""
    message, connections = _receive(control)
    if message is None:
        return False
    child = os.fork()
    if child == 0:
        _become_program(box, control, configuration["role"], message["limits"], connections)
    for connection in connections:
        connection.close()
    word = control.recv(_MESSAGE_BYTES)  # nothing if the caller is gone: the same as "stop"
    ended, status, usage = _end(child, 0.1 if word == b"gone" else 0.0)
    jail.clean(box)
    used = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "memory_bytes": usage.ru_maxrss * 1024}
    report = {"status": os.waitstatus_to_exitcode(status), "ended_itself": ended, **used}
    control.send(json.dumps(report).encode())
    return True


def _end(child: int, patience: float) -> tuple[bool, int, Any]:
    """Kill the child if it has not ended; with patience, wait for one that has closed its socket and may be about to
    end.
    """
    deadline = time.monotonic() + patience
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid and not os.WIFSTOPPED(status):
            return True, status, usage
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            return False, *os.wait4(child, 0)[1:]
        time.sleep(0.001)


def _become_program(
    box: jail.Jail,
    control: socket.socket,
    role: str,
    limits: dict[str, int],
    connections: list[socket.socket],
) -> None:
    """The child's whole life; never returns."""
    code = 1
    with contextlib.suppress(BaseException):
        os.setpgid(0, 0)
        control.close()
        kept = []
        for place, connection in enumerate(connections):
            os.dup2(connection.fileno(), 200 + place)
            connection.close()
        os.closerange(3, 200)
        os.closerange(200 + len(connections), 256)
        for place in range(len(connections)):
            kept.append(socket.socket(fileno=os.dup2(200 + place, 3 + place)))
        os.closerange(200, 256)
        random.seed(0)  # the same program gets the same reward twice
        jail.confine(box, limits)
        ROLES[role](kept[0], kept[1:])
        code = 0
    os._exit(code)
