"""The kernel's own means to confine a process, through libc: namespaces, mounts, Landlock, capabilities.

Every function raises ``OSError`` where the kernel refuses. Standard library only: the sandboxed interpreter imports
it.
"""

import ctypes
import os
import struct
from collections.abc import Callable, Iterable

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
SPACES = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWPID | NEWNET  # all but that of users
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2

# Die with the parent, adopt orphans, gain nothing by set-user-id programs.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 4, 24, 47
_CAPABILITY_VERSION = 0x20080522
_ENOSYS = 38

# The same number on every architecture.
_MOUNT_SETATTR = 442
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)
_fork = ctypes.PyDLL(None, use_errno=True).fork


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), what)


def fork() -> int:
    """As ``os.fork``, for a process with one thread: without the hooks that Python and its modules run in the child.

    With one thread there is nothing for them to repair, and they touch 200 pages, each of which the kernel has to
    copy: as much time as all the rest of a fork.
    """
    return _check(_fork(), "fork")


def unshare(flags: int) -> None:
    """Move this process into new namespaces (its next children, for ``NEWPID``)."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount a file system, or change a mount, as mount(2) does."""
    arguments = [os.fsencode(source), os.fsencode(target), kind.encode() or None]
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None), f"mount {target}")


def unmount(target: str) -> None:
    """Take a mount away at once; what still uses it keeps it until it ends."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make ``new`` the root and put the former root at ``old``."""
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(_ENOSYS, f"pivot_root: no system call number for {os.uname().machine}")
    _syscall("pivot_root", number, os.fsencode(new), os.fsencode(old))


def set_mount_attributes(target: str, wanted: int = 0, unwanted: int = 0, recursive: bool = False) -> None:
    """Give a mount (and all below it) the flags that are wanted, of MS_RDONLY, MS_NOSUID and MS_NODEV, and take the
    unwanted ones from it.
    """
    at_fdcwd, flags = ctypes.c_int(-100), ctypes.c_uint(0x8000 if recursive else 0)
    attributes = struct.pack("QQQQ", wanted, unwanted, 0, 0)
    arguments = [at_fdcwd, os.fsencode(target), flags, attributes, ctypes.c_size_t(len(attributes))]
    _syscall(f"mount_setattr {target}", _MOUNT_SETATTR, *arguments)


def prctl_later(what: str, option: int, second: object = 0, third: object = 0) -> Callable[[], None]:
    """A system call prctl, made ready here, in what is forked, and made in each child."""
    more = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in (second, third, 0, 0)]
    arguments = (ctypes.c_int(option), *more)

    def call() -> None:
        _check(_libc.prctl(*arguments), what)

    return call


def prctl(option: int, value: int) -> None:
    """A system call prctl: one of the options above, and its value."""
    prctl_later("prctl", option, value)()


def bound_capabilities() -> None:
    """Let this process and its children never gain a capability that they do not have, nor hand one on; no core dump,
    no tracing by its own user.
    """
    clear_all = 4
    prctl(_PR_CAP_AMBIENT, clear_all)
    prctl(_PR_SET_DUMPABLE, 0)
    for capability in range(64):
        try:
            prctl(_PR_CAPBSET_DROP, capability)
        except OSError:
            break  # the kernel knows no more of them, or there is nothing that we may drop


def become(user: int) -> None:
    """Change to a user and its group for good, but keep the capabilities of root."""
    keep_capabilities = 8
    prctl(keep_capabilities, 1)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    header, sets = struct.pack("Ii", _CAPABILITY_VERSION, 0), ctypes.create_string_buffer(24)
    _check(_libc.capget(header, sets), "capget")
    _, low, _, _, high, _ = struct.unpack("6I", sets)  # two times effective, permitted, inheritable
    _check(_libc.capset(header, struct.pack("6I", low, low, 0, high, high, 0)), "capset")
    prctl(_PR_SET_DUMPABLE, 0)


# What every tested program calls is built once, here or at the first call, and inherited.
_NO_CAPABILITIES = (struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24))


def drop_capabilities() -> None:
    """Empty the capability sets of this process."""
    _check(_libc.capset(*_NO_CAPABILITIES), "capset")


def landlock(readable: Iterable[str], writable: Iterable[str] = ()) -> None:
    """Deny every opening, change and listing of files outside the readable paths, and every writing but to files that
    are writable; needs no privilege.

    Set ``PR_SET_NO_NEW_PRIVS`` first.
    """
    version = _syscall("landlock", _LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    execute, write_file, read_file, read_directory = 1, 2, 4, 8
    handled = (1 << {1: 13, 2: 14}.get(version, 15)) - 1
    handled_network = 3 if version >= 4 else 0
    no_signals_or_abstract_sockets = 3  # to processes that are not confined like this
    rules = struct.pack("QQQ", handled, handled_network, no_signals_or_abstract_sockets)
    rules = rules[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = _syscall("landlock", _LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), ctypes.c_uint(0))
    try:
        to_write = list(writable)
        for path in filter(os.path.exists, [*readable, *to_write]):
            file = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                allowed = execute | read_file | (read_directory if os.path.isdir(path) else 0)
                allowed |= write_file if path in to_write else 0
                rule = struct.pack("=Qi", allowed, file)
                _syscall("landlock", _LANDLOCK_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
            finally:
                os.close(file)
        _syscall("landlock", _LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)
