"""OpenRLHF's reward function for code: 1 if a response passes its prompt's tests, 0 if not, NaN if the sandbox failed
or the label is at fault.

    --reward.remote_url path/to/openrlhf_pf/code_reward/reward.py

Labels are JSON, see :mod:`openrlhf_pf.code_reward.tasks`. Settings, from the environment:

    OPENRLHF_PF_CODE_WORKERS=2           programs at a time in each process that computes rewards
    OPENRLHF_PF_CODE_RAY=0               1: programs run on all nodes of the Ray cluster, shared by all such processes,
                                         and WORKERS, each node's CPUs where it is not set, is meant for a node
    OPENRLHF_PF_CODE_CPU_SECONDS=10      CPU time of a program with all its tests
    OPENRLHF_PF_CODE_MEMORY_MB=1024      memory that a program may add
    OPENRLHF_PF_CODE_PACKAGES=numpy      what programs may import in addition to the standard library
    OPENRLHF_PF_CODE_REQUIRE_ISOLATION=0 1: refuse to run where the kernel grants less than the whole jail
"""

import importlib.util
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from openrlhf_pf.code_reward.judge.remote import NOT_OFFERED
from openrlhf_pf.code_reward.results import Limits, Result, Verdict
from openrlhf_pf.code_reward.sandbox.pool import AnyPool, Pool
from openrlhf_pf.code_reward.tasks import from_label
from openrlhf_pf.code_reward.tasks.answers import response_of

logger = logging.getLogger(__name__)
_MOST_WARNINGS = 100
_warned: set[int] = set()
_pool: AnyPool | None = None
_owner = 0  # a forked process must not use its parent's workers
_lock = threading.Lock()


def _setting(name: str, default: int) -> int:
    text = os.environ.get(f"OPENRLHF_PF_CODE_{name}", str(default))
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"OPENRLHF_PF_CODE_{name} is {text!r}: give a whole number above 0.")
    return int(text)


def _switch(name: str) -> bool:
    text = os.environ.get(f"OPENRLHF_PF_CODE_{name}", "0")
    if text not in ("0", "1"):
        raise ValueError(f"OPENRLHF_PF_CODE_{name} is {text!r}: give 0 or 1.")
    return text == "1"


def _packages() -> list[str]:
    text = os.environ.get("OPENRLHF_PF_CODE_PACKAGES")
    if text is None:
        return ["numpy"]
    names = text.replace(",", " ").split()
    for name in names:
        if not name.isidentifier() or importlib.util.find_spec(name) is None:
            raise ValueError(
                f"OPENRLHF_PF_CODE_PACKAGES names {name!r}, which is not installed: install it or leave it out."
            )
    return names


class Settings(NamedTuple):
    """The settings from the environment: the arguments of a pool, and whether it runs over Ray's nodes."""

    ray: bool
    workers: int | None
    limits: Limits
    require_isolation: bool
    packages: list[str]


def settings() -> Settings:
    """Read them.

    Raises:
        ValueError: one of them is out of its range.
    """
    ray = _switch("RAY")
    if ray and importlib.util.find_spec("ray") is None:
        raise ValueError("OPENRLHF_PF_CODE_RAY is 1, and Ray is not installed: install it or leave the setting out.")
    workers = None if ray and "OPENRLHF_PF_CODE_WORKERS" not in os.environ else _setting("WORKERS", 2)
    limits = Limits(
        cpu_seconds=_setting("CPU_SECONDS", 10),
        wall_seconds=4.0 * _setting("CPU_SECONDS", 10),
        memory_bytes=_setting("MEMORY_MB", 1024) << 20,
    )
    return Settings(ray, workers, limits, _switch("REQUIRE_ISOLATION"), _packages())


def open_pool() -> AnyPool:
    """A new pool with the environment's settings."""
    ray, *arguments = settings()
    if not ray:
        return Pool(*arguments)
    from openrlhf_pf.code_reward.sandbox.ray_pool import ray_pool  # imports Ray

    return ray_pool(*arguments)


def shared_pool() -> AnyPool:
    """This process's pool, made at the first call from the environment's settings."""
    global _pool, _owner
    with _lock:
        if _pool is None or _owner != os.getpid():
            _pool, _owner = open_pool(), os.getpid()
        return _pool


def check_responses(responses: Sequence[str], labels: Sequence[Any], pool: AnyPool | None = None) -> list[Result]:
    """The result of each response against the tests in its label; a label at fault, and a package that programs lack,
    is reported once, as a warning.
    """
    pool = pool or shared_pool()
    found = [_submitted(pool, answer, label) for answer, label in zip(responses, labels, strict=True)]
    results = [future if isinstance(future, Result) else future.result() for future in found]
    for result, label in zip(results, labels):
        lacks_package = result.verdict is Verdict.INFRASTRUCTURE and result.detail.endswith(NOT_OFFERED)
        what = f"the label {label!r:.200}" if result.label_at_fault else "a program"
        key = hash(str(label) if result.label_at_fault else result.detail)
        if (result.label_at_fault or lacks_package) and key not in _warned:
            if len(_warned) < _MOST_WARNINGS:
                logger.warning("no reward for %s: %s", what, result.detail)
            _warned.add(key)
    return results


def _submitted(pool: AnyPool, answer: str, label: Any) -> "Result | Future[Result]":
    try:
        task = from_label(label)
    except ValueError as error:
        return Result(Verdict.INFRASTRUCTURE, detail=str(error), label_at_fault=True)
    return pool.submit(task.program(answer), task.problem)


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str], **kwargs: Any
) -> dict[str, Any]:
    """OpenRLHF's contract: B queries (prompt and response), prompts and labels to ``rewards`` (B,), ``scores`` (B,),
    logs (B,).
    """
    import torch  # evaluate does without

    responses = [response_of(query, prompt) for query, prompt in zip(queries, prompts)]
    results = check_responses(responses, labels)
    rewards = torch.tensor([result.reward for result in results])
    logs = {
        f"code_{verdict.value}": torch.tensor([float(result.verdict is verdict) for result in results])
        for verdict in Verdict
    }
    for name in ("label_at_fault", "weaker"):
        logs[f"code_{name}"] = torch.tensor([float(getattr(result, name)) for result in results])
    return {"rewards": rewards, "scores": rewards.clone(), "extra_logs": logs}
