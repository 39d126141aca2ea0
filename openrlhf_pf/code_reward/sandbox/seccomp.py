"""The filters of system calls: what no process of a worker may call, and what the programs that it forks may not."""

import ctypes
import os
import struct
import sys
from collections.abc import Callable, Iterable

from openrlhf_pf.code_reward.sandbox import kernel

_PR_SET_SECCOMP = 22
_EPERM, _ENOSYS = 1, 38

# Audit number of the architecture, place of its system call numbers in the table below.
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# name, number on x86_64, number on aarch64. Other programs, other processes, namespaces, the network, tracing, keys,
# modules and clocks, memory that no limit counts: nothing that a worker needs once it is in its jail.
_DENIED = """
execve 59 221 execveat 322 281 rt_sigqueueinfo 129 138 rt_tgsigqueueinfo 297 240 pidfd_open 434 434
pidfd_send_signal 424 424 pidfd_getfd 438 438 ptrace 101 117 process_vm_readv 310 270 process_vm_writev 311 271
process_madvise 440 440 process_mrelease 448 448 kcmp 312 272 setsid 112 157 pivot_root 155 41 chroot 161 51
move_mount 429 429 open_tree 428 428 fsopen 430 430 fsconfig 431 431 fsmount 432 432 fspick 433 433
mount_setattr 442 442 unshare 272 97 setns 308 268 mknod 133 - mknodat 259 33 name_to_handle_at 303 264
open_by_handle_at 304 265 quotactl 179 60 quotactl_fd 443 443 fanotify_init 300 262 socket 41 198 connect 42 203
bind 49 200 listen 50 201 accept 43 202 accept4 288 242 sched_setscheduler 144 119 sched_setparam 142 118
sched_setaffinity 203 122 sched_setattr 314 274 setpriority 141 140 ioprio_set 251 30 migrate_pages 256 238
move_pages 279 239 keyctl 250 219 add_key 248 217 request_key 249 218 bpf 321 280 perf_event_open 298 241
userfaultfd 323 282 io_uring_setup 425 425 io_uring_enter 426 426 io_uring_register 427 427 kexec_load 246 104
kexec_file_load 320 294 init_module 175 105 finit_module 313 273 delete_module 176 106 reboot 169 142 swapon 167 224
swapoff 168 225 syslog 103 116 acct 163 89 personality 135 92 ioperm 173 - iopl 172 - modify_ldt 154 - uselib 134 -
vhangup 153 58 sethostname 170 161 setdomainname 171 162 settimeofday 164 170 clock_settime 227 112
clock_adjtime 305 266 adjtimex 159 171 memfd_secret 447 447 shmget 29 194 shmat 30 196
msgget 68 186 semget 64 190 mq_open 240 180
""".split()
# What a worker does with and for its programs, and they must not do: processes, signals, limits, the private disk. And
# what outlives a program, or is counted for the whole host: locks, asynchronous input, watches, timers that kill.
_DENIED_TO_PROGRAMS = """
fork 57 - vfork 58 - kill 62 129 tkill 200 130 tgkill 234 131 setpgid 109 154 mount 165 40 umount2 166 39
flock 73 32 io_setup 206 0 inotify_init 253 - inotify_init1 294 26 inotify_add_watch 254 27 timer_create 222 107
""".split()
_DENIED_TO_TESTED_PROGRAMS = "memfd_create 319 279".split()  # the checker puts a program's input there
# Rights, owners, attributes and times of files: Landlock does not know them.
_DENIED_WITHOUT_A_DISK = """
chmod 90 - fchmod 91 52 fchmodat 268 53 fchmodat2 452 452 chown 92 - fchown 93 55 lchown 94 - fchownat 260 54
setxattr 188 5 lsetxattr 189 6 fsetxattr 190 7 setxattrat 463 463 removexattr 197 14 lremovexattr 198 15
fremovexattr 199 16 removexattrat 466 466 utime 132 - utimes 235 - futimesat 261 - utimensat 280 88
file_setattr 469 469
""".split()
_CLONE_THREAD = 0x00010000
_CLONE, _CLONE3, _PRLIMIT, _SETRLIMIT = (56, 220), (435, 435), (302, 261), (160, 164)
_FCNTL, _IOCTL, _SOCKETPAIR = (72, 25), (16, 29), (53, 199)
# Who gets the signals of a file, and which: another way to send one. And locks and leases that belong to an open file,
# which a program may share with its successors: F_SETOWN, F_SETSIG, F_SETOWN_EX, F_OFD_SETLK, F_OFD_SETLKW,
# F_SETLEASE, F_NOTIFY; FIOSETOWN, SIOCSPGRP.
_FCNTL_DENIED, _IOCTL_DENIED = (8, 10, 15, 37, 38, 1024, 1026), (0x8901, 0x8902)
# Datagrams, also raw ones, which are the same: they can be sent to a socket of the host by its path.
_DATAGRAMS = tuple(kind | flags for kind in (2, 3) for flags in (0, 0x800, 0x80000, 0x80800))
_STACK = 3


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


_LOAD, _EQUAL, _AT_LEAST, _TEST, _JUMP, _LEAVE = 0x20, 0x15, 0x35, 0x45, 0x05, 0x06
_ALLOW, _DENY, _ABSENT, _KILL = 0x7FFF0000, 0x00050000 | _EPERM, 0x00050000 | _ENOSYS, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def _denials(table: list[str], column: int) -> list[_Instruction]:
    numbers = [int(number) for number in table[1 + column :: 3] if number != "-"]
    # All jump to one end: the kernel translates the filter again for each program.
    checks = [(_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    return [*checks, (_JUMP, 0, 0, 1), (_LEAVE, 0, 0, _DENY)]


def _without_argument(call: int, place: int, values: Iterable[int]) -> list[_Instruction]:
    """Deny a system call if an argument has one of these values."""
    checks = [line for value in values for line in ((_EQUAL, 0, 1, value), (_LEAVE, 0, 0, _DENY))]
    load = [(_LOAD, 0, 0, _ARGUMENTS + 8 * place), *checks, (_LEAVE, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(load), call), *load]


def _filter(denials: Callable[[int], list[_Instruction]]) -> Callable[[], None]:
    """What installs a BPF program: these denials, given the column of the tables."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES or sys.byteorder != "little":
        raise OSError(_ENOSYS, f"seccomp: no table of system calls for {machine}")
    audit, column = _ARCHITECTURES[machine]
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, audit), (_LEAVE, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    # The numbers of the 32-bit-pointer ABI would slip through a list of 64-bit ones.
    program += [(_AT_LEAST, 0, 1, 0x40000000), (_LEAVE, 0, 0, _KILL)] if machine == "x86_64" else []
    program += [*denials(column), (_LEAVE, 0, 0, _ALLOW)]
    instructions = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    filter_mode = 2
    installed = ctypes.byref(_Program(len(program), instructions))
    return kernel.prctl_later("seccomp", _PR_SET_SECCOMP, filter_mode, installed)


def denial_to_programs(own_disk: bool, tested: bool = True) -> Callable[[], None]:
    """What denies a process, when it is called: new processes, signals to others, limits, mounts; threads stay
    possible. Without a disk of its own, also every change of a file's rights, owner, attributes or times.
    """

    def denials(column: int) -> list[_Instruction]:
        return [
            *_denials(_DENIED_TO_PROGRAMS, column),
            *_denials([] if own_disk else _DENIED_WITHOUT_A_DISK, column),
            *_denials(_DENIED_TO_TESTED_PROGRAMS if tested else [], column),
            (_EQUAL, 0, 1, _CLONE3[column]),
            (_LEAVE, 0, 0, _ABSENT),  # libc then takes clone, whose flags we can see
            *_without_argument(_FCNTL[column], 1, _FCNTL_DENIED),
            *_without_argument(_IOCTL[column], 1, _IOCTL_DENIED),
            *_without_argument(_SOCKETPAIR[column], 1, _DATAGRAMS),
            (_EQUAL, 0, 4, _SETRLIMIT[column]),
            (_LOAD, 0, 0, _ARGUMENTS),
            (_EQUAL, 0, 1, _STACK),
            (_LEAVE, 0, 0, _ALLOW),
            (_LEAVE, 0, 0, _DENY),
            (_EQUAL, 0, 5, _CLONE[column]),
            (_LOAD, 0, 0, _ARGUMENTS),
            (_TEST, 2, 0, kernel.SPACES | kernel.NEWUSER),
            (_TEST, 0, 1, _CLONE_THREAD),
            (_LEAVE, 0, 0, _ALLOW),
            (_LEAVE, 0, 0, _DENY),
            (_EQUAL, 0, 10, _PRLIMIT[column]),
            (_LOAD, 0, 0, _ARGUMENTS),
            (_EQUAL, 0, 2, 0),  # of this process
            (_LOAD, 0, 0, _ARGUMENTS + 8),
            (_EQUAL, 5, 0, _STACK),  # to be set as a program likes
            (_LOAD, 0, 0, _ARGUMENTS + 16),  # the new limit: reading limits is allowed, setting them is not
            (_EQUAL, 0, 2, 0),
            (_LOAD, 0, 0, _ARGUMENTS + 20),
            (_EQUAL, 1, 0, 0),
            (_LEAVE, 0, 0, _DENY),
            (_LEAVE, 0, 0, _ALLOW),
        ]

    return _filter(denials)


def deny_to_all() -> None:
    """No new program, socket, namespace, tracing, for this process and all its children."""
    _filter(lambda column: _denials(_DENIED, column))()
