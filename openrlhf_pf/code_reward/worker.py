"""A worker: an interpreter, warm and in its jail, that forks one confined child a program.

It is started by :mod:`driver` as a fresh process (nothing of the caller's memory or environment), with one socket to
the caller. Two kinds share this code: the one that forks the tested programs never sees a test; the one that forks the
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

from openrlhf_pf.code_reward import candidate, checker, jail, kernel
from openrlhf_pf.code_reward.control import MESSAGE_BYTES

ROLES: dict[str, Callable[..., None]] = {
    "candidate": candidate.serve,
    "checker": checker.serve,
}

# Loaded once, so that no program pays for them.
USUAL_IMPORTS = """
abc array ast base64 bisect calendar cmath collections collections.abc contextlib copy dataclasses datetime
decimal enum fractions functools hashlib heapq io itertools json locale math numbers operator random re secrets
statistics string struct textwrap threading time traceback types typing unicodedata zlib
""".split()

# Loaded where a program names one of them, as the packages are: what they add to a process's memory would cost every
# other program half as much time again.
RARE_IMPORTS = ("asyncio",)

_FIRST_CONNECTION, _CONTROL, _END_OF_FILES = 3, 8, 256


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
    control = socket.socket(fileno=os.dup2(configuration["control"], _CONTROL))
    os.closerange(_FIRST_CONNECTION, _CONTROL)
    os.closerange(_CONTROL + 1, _END_OF_FILES)
    connections = _connections()
    try:
        box = _settle(configuration)
    except BaseException:
        control.send(json.dumps({"failed": traceback.format_exc()[-4000:]}).encode())
        os._exit(1)
    control.send(json.dumps({"ready": True, "weaknesses": box.weaknesses}).encode())
    try:
        while _serve_one(box, control, ROLES[configuration["role"]], connections):
            pass
    except BaseException:
        with contextlib.suppress(OSError):
            control.send(json.dumps({"failed": traceback.format_exc()[-4000:]}).encode())
    os._exit(0)  # as the first process of its PID namespace it takes everything with it


def _connections() -> list[socket.socket]:
    """Socket objects for the descriptors that a child will have: made once, here, where they are closed."""
    pair = socket.socketpair()
    files = range(_FIRST_CONNECTION, _CONTROL)
    made = [socket.socket(pair[0].family, pair[0].type, 0, os.dup2(pair[0].fileno(), file)) for file in files]
    os.closerange(_FIRST_CONNECTION, _CONTROL)
    for end in pair:
        end.detach()
    return made


def _settle(configuration: dict[str, Any]) -> jail.Jail:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.umask(0o022)
    folders = [folder for package in configuration["packages"].values() for folder in package]
    box = jail.enter(folders, configuration["disk_bytes"], frozenset(configuration["without"]))
    sys.path += sorted({os.path.dirname(folder) for folder in folders})
    for name in [*USUAL_IMPORTS, *configuration["imports"]]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    jail.measure()
    jail.build_root(box)
    os.chdir(jail.HOME if box.private_disk else "/")
    jail.settle(box)
    random.seed(0)  # the same program gets the same reward twice
    gc.collect()
    gc.freeze()  # children would copy every page that a collection touches
    return box


def _serve_one(
    box: jail.Jail, control: socket.socket, role: Callable[..., None], connections: list[socket.socket]
) -> bool:
    """Fork a child for one program, have it killed when told to, report how it ended. False: the caller is gone."""
    message, files, _, _ = socket.recv_fds(control, MESSAGE_BYTES, _CONTROL - _FIRST_CONNECTION)
    if not message:
        return False
    limits = json.loads(message)["limits"]
    for place, file in enumerate(files, _FIRST_CONNECTION):
        if file != place:
            os.dup2(file, place)
            os.close(file)
    child = kernel.fork()
    if child == 0:
        _become_program(box, role, limits, connections[: len(files)])
    os.closerange(_FIRST_CONNECTION, _FIRST_CONNECTION + len(files))
    word = control.recv(MESSAGE_BYTES)  # nothing if the caller is gone: the same as "stop"
    # Only a child that has come to the end of its confinement has a process group, and none can leave it again.
    if word == b"gone" and os.getpgid(child) != child:
        raise OSError("the kernel refuses to confine a program as it did before")
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
    box: jail.Jail, role: Callable[..., None], limits: dict[str, Any], connections: list[socket.socket]
) -> None:
    """The child's whole life; never returns.

    What it does here is paid for by every program: each page that it touches is copied.
    """
    code = 1
    try:
        os.closerange(_FIRST_CONNECTION + len(connections), _END_OF_FILES)
        jail.confine(box, limits)
        role(*connections)
        code = 0
    finally:
        os._exit(code)
