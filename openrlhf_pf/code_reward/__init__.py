"""Code as the true score: sandboxed programs, tests that cannot be gamed, reward functions for OpenRLHF.

**Threat model.** The tested program is hostile: a policy under reinforcement learning finds every way to a pass that
is cheaper than a solution. Its author controls all code and memory of its own process, and knows this source.

Covered:

- *A forged pass.* The verdict comes from another process (:mod:`judge.checker`), which has sent inputs, has received
  plain data (:mod:`judge.codec`: exact built-in types, rebuilt, never pickle) and has compared them. Expected values
  never enter the program's process, nor the one that it is forked from. Exit codes, prints and exceptions count for
  nothing; a pass needs every answer, each under the random number of the message that asked for it and its place
  there, and an answer to the last question, "end".
- *Harm to the host or to other programs.* Namespaces (mount, PID, network, IPC, UTS, cgroup; with a user namespace
  where there is no root), a root that shows only what Python needs to import, read-only, and a private tmpfs; a user
  without rights, no capabilities, ``no_new_privs``; a seccomp filter against new processes, programs, sockets,
  signals to others, mounts, namespaces, tracing; limits of CPU and wall time, memory, threads, open files, file
  size. No environment, file descriptor or memory of the trainer's.
- *What outlives a call.* A program cannot fork; what there is dies with its process or, where seccomp is missing,
  with its PID namespace; the private directory is renewed. A worker ends when its owner's socket closes, however the
  owner died.
- *A lie about itself.* Error kinds and texts come from the program and may be false; they choose between zeros.

Where the kernel refuses a part, the rest applies: in a container without namespaces, Landlock hides files, seccomp
denies sockets and processes, and nothing can be written. What is missing is named in one warning, or is an error
with ``require_isolation=True``.

Not covered:

- Bugs of the kernel, of CPython's ``json``, and side channels: timing, shared caches. Put a virtual machine around
  it where that matters.
- Tests that can be passed without solving the problem: too few cases, expected values that follow from the inputs,
  or tests that compare the program with itself. For data that has to be built by the program's or the test's own
  classes (linked lists in LeetCode, objects in MBPP), conversion to plain data runs beside the program, which can
  tamper with it, but still has to come up with the expected value.
- A program sees inputs of later tests while it answers earlier ones, and all tests of a program share one process,
  and so can share state.
- Test code is trusted not to lie, and not to leave something behind: one checker process examines up to 1,000
  programs, one after the other. It is confined all the same, and ends where a test takes too long.
- Without namespaces: names and attributes of host files can be seen, and the contents of packages that lie in the
  interpreter's own folders, no others; without Landlock and seccomp as well, what the trainer's user may read can be
  read.
"""

import importlib
from typing import Any

_PUBLIC = {
    "Limits": "judge.results",
    "Pool": "sandbox.pool",
    "Problem": "judge.results",
    "Result": "judge.results",
    "Unavailable": "sandbox.control",
    "Verdict": "judge.results",
}

__all__ = ["Limits", "Pool", "Problem", "Result", "Unavailable", "Verdict"]


def __getattr__(name: str) -> Any:
    # Late, because workers import this package too and need none of it.
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
