"""OpenRLHF's reward function for code: 1 if a response passes its prompt's tests, 0 if not, NaN if the sandbox failed.

    --reward.remote_url path/to/openrlhf_pf/code_reward/reward.py

Labels are JSON, see :mod:`openrlhf_pf.code_reward.tasks`. Settings, from the environment:

    OPENRLHF_PF_CODE_WORKERS=2           programs at a time in each process that computes rewards
    OPENRLHF_PF_CODE_CPU_SECONDS=10      CPU time of a program with all its tests
    OPENRLHF_PF_CODE_MEMORY_MB=1024      memory that a program may add
    OPENRLHF_PF_CODE_REQUIRE_ISOLATION=0 1: refuse to run where the kernel grants less than the whole jail
"""

import os
import threading
from collections.abc import Sequence
from typing import Any

import torch

from openrlhf_pf.code_reward.judge.results import Limits, Result, Verdict
from openrlhf_pf.code_reward.sandbox.pool import Pool
from openrlhf_pf.code_reward.tasks import from_label
from openrlhf_pf.code_reward.tasks.extract import response_of

_pool: Pool | None = None
_owner = 0  # a forked process must not use its parent's workers
_lock = threading.Lock()


def _setting(name: str, default: int) -> int:
    text = os.environ.get(f"OPENRLHF_PF_CODE_{name}", str(default))
    if not text.isdigit():
        raise ValueError(f"OPENRLHF_PF_CODE_{name} is {text!r}: give a whole number.")
    return int(text)


def shared_pool() -> Pool:
    """This process's pool, made at the first call from the environment's settings."""
    global _pool, _owner
    with _lock:
        if _pool is None or _owner != os.getpid():
            limits = Limits(
                cpu_seconds=_setting("CPU_SECONDS", 10),
                wall_seconds=4.0 * _setting("CPU_SECONDS", 10),
                memory_bytes=_setting("MEMORY_MB", 1024) << 20,
            )
            strict = bool(_setting("REQUIRE_ISOLATION", 0))
            _pool, _owner = Pool(_setting("WORKERS", 2), limits, require_isolation=strict), os.getpid()
        return _pool


def check_responses(responses: Sequence[str], labels: Sequence[str], pool: Pool | None = None) -> list[Result]:
    """The result of each response against the tests in its label.

    Raises:
        ValueError: a label holds no tests.
    """
    pool = pool or shared_pool()
    tasks = [from_label(label) for label in labels]
    return pool.check_all((task.program(answer), task.problem) for task, answer in zip(tasks, responses))


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str], **kwargs: Any
) -> dict[str, Any]:
    """OpenRLHF's contract: B queries (prompt and response), prompts and labels to ``rewards`` (B,), ``scores`` (B,),
    logs (B,).
    """
    responses = [response_of(query, prompt) for query, prompt in zip(queries, prompts)]
    results = check_responses(responses, labels)
    rewards = torch.tensor([result.reward for result in results])
    logs = {
        f"code_{verdict.value}": torch.tensor([float(result.verdict is verdict) for result in results])
        for verdict in Verdict
    }
    return {"rewards": rewards, "scores": rewards.clone(), "extra_logs": logs}
