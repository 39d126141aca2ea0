"""The kernel's own means to confine a process, through libc: namespaces, mounts, seccomp, Landlock, capabilities.

Every function raises ``OSError`` where the kernel refuses. Standard library only: the sandboxed interpreter imports
it.
"""

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable
from functools import lru_cache

NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000,
    0x02000000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

_CLONE_THREAD = 0x00010000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 4, 22, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 36, 38, 47
_EPERM, _ENOSYS = 1, 38

# Audit number of the architecture, place of its system call numbers in the table below.
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# name, number on x86_64, number on aarch64. Processes, other processes, mounts and namespaces, the network, limits,
# keys and tracing, modules and clocks, memory that no limit counts.
_DENIED = """
fork 57 - vfork 58 - execve 59 221 execveat 322 281 kill 62 129 tkill 200 130 tgkill 234 131 rt_sigqueueinfo 129 138
rt_tgsigqueueinfo 297 240 pidfd_open 434 434 pidfd_send_signal 424 424 pidfd_getfd 438 438 ptrace 101 117
process_vm_readv 310 270 process_vm_writev 311 271 process_madvise 440 440 kcmp 312 272 setpgid 109 154 setsid 112 157
mount 165 40 umount2 166 39 pivot_root 155 41 chroot 161 51 move_mount 429 429 open_tree 428 428 fsopen 430 430
fsconfig 431 431 fsmount 432 432 fspick 433 433 mount_setattr 442 442 unshare 272 97 setns 308 268 mknod 133 -
mknodat 259 33 name_to_handle_at 303 264 open_by_handle_at 304 265 quotactl 179 60 quotactl_fd 443 443
fanotify_init 300 262 socket 41 198 connect 42 203 bind 49 200 listen 50 201 accept 43 202 accept4 288 242
setrlimit 160 164 sched_setscheduler 144 119 sched_setattr 314 274 setpriority 141 140 ioprio_set 251 30
migrate_pages 256 238 move_pages 279 239 keyctl 250 219 add_key 248 217 request_key 249 218 bpf 321 280
perf_event_open 298 241 userfaultfd 323 282 io_uring_setup 425 425 io_uring_enter 426 426 io_uring_register 427 427
kexec_load 246 104 kexec_file_load 320 294 init_module 175 105 finit_module 313 273 delete_module 176 106
reboot 169 142 swapon 167 224 swapoff 168 225 syslog 103 116 acct 163 89 personality 135 92 ioperm 173 - iopl 172 -
modify_ldt 154 - uselib 134 - vhangup 153 58 sethostname 170 161 setdomainname 171 162 settimeofday 164 170
clock_settime 227 112 clock_adjtime 305 266 adjtimex 159 171 memfd_create 319 279 memfd_secret 447 447 shmget 29 194
shmat 30 196 msgget 68 186 semget 64 190 mq_open 240 180
""".split()
_CLONE, _CLONE3, _PRLIMIT = (56, 220), (435, 435), (302, 261)

# The same number on every architecture.
_MOUNT_SETATTR = 442
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), what)


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
    number = _PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise OSError(_ENOSYS, f"pivot_root: no system call number for {platform.machine()}")
    _syscall("pivot_root", number, os.fsencode(new), os.fsencode(old))


def make_read_only(target: str) -> None:
    """Make a mount and everything mounted below it read-only, without devices and set-user-id programs."""
    read_only_nosuid_nodev = struct.pack("QQQQ", 1 | 2 | 4, 0, 0, 0)
    at_recursive, at_fdcwd = 0x8000, -100
    _syscall(
        f"mount_setattr {target}",
        _MOUNT_SETATTR,
        ctypes.c_int(at_fdcwd),
        os.fsencode(target),
        ctypes.c_uint(at_recursive),
        read_only_nosuid_nodev,
        ctypes.c_size_t(32),
    )


def _prctl(option: int, value: int = 0, third: int = 0) -> None:
    unused = ctypes.c_ulong(0)
    _check(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), ctypes.c_ulong(third), unused, unused), "prctl")


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send the signal to this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def no_new_privileges() -> None:
    """Give up for good what set-user-id programs could gain."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def bound_capabilities() -> None:
    """Let this process and its children never gain a capability that they do not have."""
    for capability in range(64):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError:
            break  # the kernel knows no more of them, or there is nothing that we may drop


def drop_capabilities() -> None:
    """Empty the capability sets of this process; no core dump, no tracing by its own user."""
    clear_all = 4
    try:
        _prctl(_PR_CAP_AMBIENT, clear_all)
    finally:
        header, data = struct.pack("Ii", 0x20080522, 0), bytes(24)
        _check(_libc.capset(header, data), "capset")
        _prctl(_PR_SET_DUMPABLE, 0)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


@lru_cache
def seccomp_filter() -> bytes:
    """The BPF program: each instruction is (code, jump if true, jump if false, constant)."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES or sys.byteorder != "little":
        raise OSError(_ENOSYS, f"seccomp: no table of system calls for {machine}")
    audit, column = _ARCHITECTURES[machine]
    load, equal, at_least, test, leave = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, deny, absent, kill = 0x7FFF0000, 0x00050000 | _EPERM, 0x00050000 | _ENOSYS, 0x80000000
    number, architecture, first, third = 0, 4, 16, 32  # offsets in struct seccomp_data
    program = [(load, 0, 0, architecture), (equal, 1, 0, audit), (leave, 0, 0, kill), (load, 0, 0, number)]
    # The numbers of the 32-bit-pointer ABI would slip through a list of 64-bit ones.
    program += [(at_least, 0, 1, 0x40000000), (leave, 0, 0, kill)] if machine == "x86_64" else []
    numbers = [n for n in _DENIED[1 + column :: 3] if n != "-"]
    for denied in map(int, numbers):
        program += [(equal, 0, 1, denied), (leave, 0, 0, deny)]
    program += [(equal, 0, 1, _CLONE3[column]), (leave, 0, 0, absent)]  # libc then takes clone, whose flags we can see
    namespaces = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
    program += [
        (equal, 0, 5, _CLONE[column]),
        (load, 0, 0, first),
        (test, 2, 0, namespaces),
        (test, 0, 1, _CLONE_THREAD),
        (leave, 0, 0, allow),
        (leave, 0, 0, deny),
        (equal, 0, 5, _PRLIMIT[column]),
        (load, 0, 0, third),  # the new limit: reading limits is allowed, setting them is not
        (equal, 0, 2, 0),
        (load, 0, 0, third + 4),
        (equal, 1, 0, 0),
        (leave, 0, 0, deny),
        (leave, 0, 0, allow),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def deny_system_calls() -> None:
    """No new process, program, signal to others, socket, mount, namespace, tracing, limit; threads stay possible."""
    instructions = seccomp_filter()
    program = _Program(len(instructions) // 8, instructions)
    filter_mode = 2
    _check(_libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(filter_mode), ctypes.byref(program), 0, 0), "seccomp")


def landlock(readable: Iterable[str]) -> None:
    """Deny every opening, change and listing of files outside the readable paths; needs no privilege.

    Call ``no_new_privileges`` first.
    """
    version = _syscall("landlock", _LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    execute, read_file, read_directory = 1, 4, 8
    handled = (1 << {1: 13, 2: 14}.get(version, 15)) - 1
    handled_network = 3 if version >= 4 else 0
    no_signals_or_abstract_sockets = 3  # to processes that are not confined like this
    rules = struct.pack("QQQ", handled, handled_network, no_signals_or_abstract_sockets)
    rules = rules[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = _syscall("landlock", _LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), ctypes.c_uint(0))
    try:
        for path in readable:
            if not os.path.exists(path):
                continue
            file = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                allowed = execute | read_file | (read_directory if os.path.isdir(path) else 0)
                rule = struct.pack("=Qi", allowed, file)
                _syscall("landlock", _LANDLOCK_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
            finally:
                os.close(file)
        _syscall("landlock", _LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)
