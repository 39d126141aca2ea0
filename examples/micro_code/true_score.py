"""The true score of the micro-code task as a reward function: 1.0 if a response passes its hidden tests, else 0.0.

For ``--collect.score``. The label holds the reference solution and the kind of its tests, as JSON. Run as a module, it
is the process that tests candidates: one line of JSON in, one word out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).resolve().parents[2]
EOS = "<|end|>"  # as in policy.py, which this file must not import: it needs torch, and every process here is small
_ONE_AT_A_TIME = Lock()


@lru_cache(maxsize=1)
def _tester() -> subprocess.Popen:
    # A process of its own, because the time limit is a signal, which only a main thread can take.
    command = [sys.executable, "-m", "examples.micro_code.true_score"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, list[float]]:
    """Score each query, which is its prompt and the response to it."""
    rewards = []
    for query, prompt, label in zip(queries, prompts, labels):
        task = json.loads(label)
        response = query[len(prompt) :].split(EOS)[0].rstrip(" ")  # OpenRLHF's SFT puts a space before the end token
        with _ONE_AT_A_TIME:
            tester = _tester()
            print(json.dumps([response, task["solution"], task["kind"]]), file=tester.stdin, flush=True)
            rewards.append(float(tester.stdout.readline() == "passed\n"))
    return {"rewards": rewards}


def main() -> None:
    """Test candidates until the input ends."""
    from .score import limit_memory, passes

    limit_memory()
    for line in sys.stdin:
        print("passed" if passes(*json.loads(line)) else "failed", flush=True)


if __name__ == "__main__":
    main()
