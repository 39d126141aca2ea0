"""The jail: built once around a worker (:func:`enter`), closed for good around each program it forks
(:func:`confine`).

What the kernel refuses is left out and named, never silently: :func:`enter` returns the weaknesses, one sentence each.
Standard library only.
"""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from openrlhf_pf.code_reward.sandbox import kernel, seccomp
from openrlhf_pf.code_reward.sandbox.root import HOME, NULL, STANDARD_LIBRARY, Root

PARTS = ("namespaces", "mounts", "seccomp", "landlock", "user")
_STACK_BYTES = 112 << 20  # the kernel leaves 128 MiB free below the stack of every process: for programs that recurse
_OVERFLOW_USER = 65534
_FIRST_USER = 0x70000000  # far above any account; one user a worker, so that no two can touch each other

_Step = tuple[str, Callable[[], None]]  # what is missing where it is refused, and the step
_NO_FILTER = "no seccomp filter: processes can be started"


class Jail:
    """What a worker knows about the jail it sits in."""

    def __init__(self, root: Root, without: frozenset[str]) -> None:
        self.root = root
        self.without = without
        self.weaknesses: list[str] = []
        self.user: int | None = None  # programs run as this one
        self.user_mapped = False  # a user namespace, in which our user has no rights outside
        self.tasks_of_user = _tasks_of_user()
        self.tested = True  # what runs here is a tested program, not our checker
        self.private_disk = False
        self.processes_hidden = False
        self.processes_denied = False  # no program can start one
        self.steps: list[Callable[[], None]] = []  # of confine, those that the kernel grants

    def require(self, part: str) -> None:
        """Raise an ``OSError`` if a part is to be left out."""
        if part in self.without:
            raise OSError(1, "switched off")

    def give_up(self, what: str, reason: object) -> None:
        """Note a part of the jail that is missing."""
        self.weaknesses.append(f"{what} ({reason})")


def enter(packages: list[str], disk_bytes: int, without: frozenset[str]) -> Jail:
    """Put this process into namespaces of its own; returns in the process that is alone in there.

    The calling process stays outside, waits, and ends when that one does.
    """
    jail = Jail(Root(packages, disk_bytes), without)
    if os.geteuid() == 0 and "user" not in without:
        jail.user = next(filter(_is_mapped, (_FIRST_USER + os.getpid(), _OVERFLOW_USER)), None)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    user_namespace = False
    try:
        jail.require("namespaces")
        _try_in_a_child(_unshare)  # a failure half-way would leave us in a namespace of no use
        user_namespace = _unshare()
    except OSError as error:
        jail.give_up("no namespaces: other processes, files and kernel objects of this host are not hidden", error)
        return jail
    if user_namespace:
        jail.user, jail.user_mapped = None, True
    _wait_outside()
    jail.processes_hidden = True
    return jail


def _try_in_a_child(step: Callable[[], object]) -> None:
    """Raise an ``OSError`` if a child cannot take this step; this process does not take it."""
    if refused := _refused([("", step)]):
        raise OSError(refused[0])


def _is_mapped(user: int) -> bool:
    """Whether this user exists in our user namespace, as a user and as a group."""
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/self/{name}") as file:
            ranges = [tuple(map(int, line.split())) for line in file]
        if not any(first <= user < first + count for first, _, count in ranges):
            return False
    return True


def _unshare() -> bool:
    """Returns whether it took a user namespace."""
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        with contextlib.suppress(OSError):
            kernel.unshare(kernel.SPACES)
            return False
    kernel.unshare(kernel.SPACES | kernel.NEWUSER)
    for name, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    return True


def _wait_outside() -> None:
    child = os.fork()
    if child == 0:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    os.closerange(0, 256)
    while True:
        with contextlib.suppress(InterruptedError):
            pid, _ = os.wait()
            if pid == child:
                os._exit(0)


def build_root(jail: Jail) -> None:
    """Replace the file system by an empty one that shows the readable paths, read-only, and a private directory.

    To be called once all is imported. Without a mount namespace there is nothing to do here: Landlock and the limit on
    file sizes stand in for it (:func:`confine`).
    """
    if not jail.processes_hidden:
        return
    try:
        jail.require("mounts")
        _try_in_a_child(lambda: (kernel.unshare(kernel.NEWNS), jail.root.build(jail.user)))
    except OSError as error:
        jail.give_up("no file system of its own", error)
        return
    jail.root.build(jail.user)
    jail.private_disk = True


def clean(jail: Jail) -> None:
    """Leave nothing of the last program, which has ended: no process that it has started, no file."""
    if not jail.processes_denied:
        _end_descendants(jail)
    if jail.private_disk:
        jail.root.renew_home()


def _end_descendants(jail: Jail) -> None:
    if jail.processes_hidden:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)  # all in this PID namespace but ourselves
    while True:
        if not jail.processes_hidden:
            _kill_children()
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break


def _kill_children() -> None:
    """Children and, since we adopt orphans, in the end all descendants, whatever group or session they are in."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
            if parent == os.getpid():
                os.kill(int(name), signal.SIGKILL)


def settle(jail: Jail) -> None:
    """Give up what neither this process nor a child of its needs any more; then try in a child what :func:`confine`
    will do. What the kernel refuses is noted.
    """
    _try(jail, "capabilities can be handed on", kernel.bound_capabilities)
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        resource.setrlimit(what, (0, 0))
    _try(jail, "new privileges can be gained", partial(kernel.prctl, kernel.PR_SET_NO_NEW_PRIVS, 1))
    filtered = _try(jail, _NO_FILTER, lambda: (jail.require("seccomp"), seccomp.deny_to_all()))
    steps: list[_Step] = [
        ("capabilities are kept", kernel.drop_capabilities),
        *([] if jail.private_disk else [("no Landlock: files of this host can be read", lambda: _landlock(jail))]),
        ("no process group for a program", partial(os.setpgid, 0, 0)),
    ]
    if filtered:
        steps.append((_NO_FILTER, seccomp.denial_to_programs(jail.private_disk, jail.tested)))
        # No program can do anything to another process then, not even to one of its own user.
        if _try(jail, *_to_its_user(jail)):
            _check_world_readable(jail)
    else:
        steps.insert(0, _to_its_user(jail))
        _check_world_readable(jail)
    refused = _refused(steps)
    jail.processes_denied = filtered and len(steps) - 1 not in refused
    jail.weaknesses += [f"{steps[place][0]} ({error})" for place, error in refused.items()]
    jail.steps = [step for place, (_, step) in enumerate(steps) if place not in refused]


def _try(jail: Jail, what: str, step: Callable[[], object]) -> bool:
    try:
        step()
    except OSError as error:
        jail.give_up(what, error)
        return False
    return True


def _refused(steps: list[_Step]) -> dict[int, str]:
    """The places of the steps that fail in a child, and their errors."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        for place, (_, step) in enumerate(steps):
            try:
                step()
            except Exception as error:
                os.write(write, f"{place} {error}\n".encode())
        os._exit(0)
    os.close(write)
    with open(read) as lines:
        found = [line.rstrip("\n").split(" ", 1) for line in lines]
    if status := os.waitpid(child, 0)[1]:
        raise OSError(f"a child that tried to confine itself ended with status {status}")
    return {int(place): error for place, error in found}


def _check_world_readable(jail: Jail) -> None:
    """Programs run as an unprivileged user, so every path they need must be world-readable."""
    if jail.user is None or jail.user_mapped:
        return
    for folder in STANDARD_LIBRARY:
        above = [] if jail.private_disk else [*_parents(folder)]
        for path in [*above, folder]:
            with contextlib.suppress(OSError):
                if os.stat(path).st_mode & 0o005 != 0o005 and (path == folder or not os.stat(path).st_mode & 0o001):
                    jail.give_up(
                        "parts of the standard library cannot be imported", f"{path} is closed to other users"
                    )
                    return


def _parents(path: str) -> list[str]:
    above = os.path.dirname(path)
    return [*_parents(above), above] if above not in ("/", path, "") else []


def _to_its_user(jail: Jail) -> _Step:
    return "programs run as the same user as their caller", lambda: _change_user(jail)


def _change_user(jail: Jail) -> None:
    if jail.user_mapped:
        return
    if jail.user is None:
        raise OSError(1, "only root can change it, to a user that exists")
    kernel.become(jail.user)


def _landlock(jail: Jail) -> None:
    jail.require("landlock")
    kernel.landlock((path for path in jail.root.readable if path != HOME), [NULL])


def resource_limits(jail: Jail, limits: dict[str, Any]) -> list[tuple[int, tuple[int, int]]]:
    """The arguments of setrlimit for these limits."""
    shared_tasks = 0
    if jail.user is None:  # threads of other programs of the same user count against the limit
        shared_tasks = jail.tasks_of_user = _tasks_of_user() or jail.tasks_of_user
    wanted = {
        resource.RLIMIT_CPU: limits["cpu_seconds"] or resource.RLIM_INFINITY,
        resource.RLIMIT_AS: _measured_bytes + limits["memory_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        # Where there is no disk of its own to fill, nothing is written at all.
        resource.RLIMIT_FSIZE: limits["disk_bytes"] if jail.private_disk or not jail.tested else 0,
        resource.RLIMIT_NPROC: limits["threads"] + shared_tasks,
    }
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = _STACK_BYTES if hard == resource.RLIM_INFINITY else min(_STACK_BYTES, hard)
    return [*((what, (value, value)) for what, value in wanted.items()), (resource.RLIMIT_STACK, (stack, hard))]


def _tasks_of_user() -> int:
    """The threads of our user on this machine, as far as they can be seen."""
    found, user = 0, f"Uid:\t{os.getuid()}\t"
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc/self") else ()):
        with contextlib.suppress(OSError), open(f"/proc/{name}/status") as file:
            text = file.read()
            found += int(text.partition("Threads:")[2].split()[0]) if user in text else 0
    return found


def confine(jail: Jail, limits: list[tuple[int, tuple[int, int]]]) -> None:
    """Close the jail around this process, which must be single-threaded: limits, capabilities, files, system calls.

    Raises:
        OSError: the kernel refuses what it has granted when the worker started; nothing may run here.
    """
    for limit in limits:
        resource.setrlimit(*limit)
    for step in jail.steps:
        step()


_measured_bytes = 512 << 20  # of this process's address space; the jail has no /proc to measure it there


def measure() -> None:
    """Note the size of this process's address space before it enters the jail; limits are added to it."""
    global _measured_bytes
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        _measured_bytes = int(file.read().split()[0]) * resource.getpagesize() + (8 << 20)


def environment() -> dict[str, str]:
    """The whole environment of a worker: nothing of the caller's; hashes and threads that do not vary; symbols that
    are looked up once, in the worker, and not in every child.
    """
    single = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    fixed = {"PATH": "/usr/bin:/bin", "HOME": HOME, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "LD_BIND_NOW": "1"}
    return fixed | dict.fromkeys(single, "1")


def interpreter(code: str) -> list[str]:
    """The command that runs code in a bare interpreter: no user site, no site-packages, no byte code written."""
    return [sys.executable, "-s", "-S", "-B", "-c", code]
