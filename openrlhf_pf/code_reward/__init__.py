"""Code as the true score: sandboxed programs, tests that cannot be gamed, reward functions for OpenRLHF.

The tested program is hostile: a policy under reinforcement learning finds every way to a pass that is cheaper than a
solution. Packages:

- ``sandbox``: the jail (namespaces, seccomp, Landlock, an unprivileged user) and the pools of worker processes in it.
- ``judge``: the verdict. Another process asks the program for calls of its own functions, takes back plain data
  (:mod:`judge.codec`: exact built-in types, rebuilt, never pickle) and compares; expected values, comparisons, helpers
  and references never enter the program's process, nor the one that it is forked from.
- ``tasks``: the label formats, and the program in a model's answer.

The threat model and every form of label: docs/code_reward.md.
"""

import importlib
from typing import Any

_PUBLIC = {
    "AnyPool": "sandbox.pool",
    "Limits": "results",
    "Pool": "sandbox.pool",
    "Problem": "results",
    "Result": "results",
    "Unavailable": "sandbox.worker",
    "Verdict": "results",
    "ray_pool": "sandbox.ray_pool",
}

__all__ = ["AnyPool", "Limits", "Pool", "Problem", "Result", "Unavailable", "Verdict", "ray_pool"]


def __getattr__(name: str) -> Any:
    # Late, because workers import this package too and need none of it.
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
