"""The true score of the micro-code task as a reward function: 1.0 if a response passes its hidden tests, else 0.0.

    python -m openrlhf_pf.cli.collect --collect.score examples/micro_code/true_score.py ...
    python examples/micro_code/true_score.py      # scores two responses and prints their scores

The label of a prompt is JSON with its reference solution and the kind of its tests. To write your own: take the
response out of each query, judge it, and return one number a query.
"""

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).resolve().parents[2]
EOS = "<|end|>"  # as in policy.py, which imports torch: not needed here
_ONE_AT_A_TIME = Lock()


@lru_cache(maxsize=1)
def _tester() -> subprocess.Popen:
    # A process of its own, because the time limit is a signal, which only a main thread can take.
    command = [sys.executable, "-c", "from examples.micro_code.true_score import judge_candidates; judge_candidates()"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, list[float]]:
    """Return the true score of each query, which is its prompt and the response to it.

    >>> label = json.dumps({"solution": "def f(n):\\n    return n + 3", "kind": "int"})
    >>> prompt = "# return 3 more than n\\n"
    >>> right, wrong = "def f(n):\\n    return 3 + n", "def f(n):\\n    return n"
    >>> reward_func([prompt + right, prompt + wrong], [prompt] * 2, [label] * 2)
    {'rewards': [1.0, 0.0]}
    """
    rewards = []
    for query, prompt, label in zip(queries, prompts, labels):
        task = json.loads(label)
        response = query[len(prompt) :].split(EOS)[0].rstrip(" ")  # OpenRLHF's SFT puts a space before the end token
        with _ONE_AT_A_TIME:
            tester = _tester()
            print(json.dumps([response, task["solution"], task["kind"]]), file=tester.stdin, flush=True)
            rewards.append(float(tester.stdout.readline() == "passed\n"))
    return {"rewards": rewards}


def judge_candidates() -> None:
    """Read a candidate a line as JSON and answer passed or failed, until the input ends."""
    from examples.micro_code.score import limit_memory, passes

    limit_memory()
    for line in sys.stdin:
        print("passed" if passes(*json.loads(line)) else "failed", flush=True)


if __name__ == "__main__":
    reference = {"solution": "def f(n):\n    return n + 3", "kind": "int"}
    question, answers = "# return 3 more than n\n", ["def f(n):\n    return 3 + n", "def f(n):\n    return n"]
    print(reward_func([question + text for text in answers], [question] * 2, [json.dumps(reference)] * 2))
