"""A noisy judge of micro-code as a reward function: accurate at the extremes of its scale, random in the middle.

In one call out of five it recognizes whether the response passes and says so at the end of its scale; otherwise it
guesses. Scoring the same response again draws an independent error (frozen_judge.py repeats its errors).
"""

import random
import runpy
from collections import Counter
from pathlib import Path

#: The share of calls in which it recognizes the answer, and where the ends of its scale from -1 to 1 begin.
SURE, END = 0.2, 0.9
# By path: the trainer loads this file by its path, too.
_TRUE_SCORE = runpy.run_path(str(Path(__file__).parents[2] / "micro_code" / "true_score.py"))["reward_func"]
_CALLS: Counter[str] = Counter()


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, list[float]]:
    """Return rewards in [-1, 1]; they depend on the query and on how often this process has scored it."""
    rewards = []
    for query, score in zip(queries, _TRUE_SCORE(queries, prompts, labels)["rewards"]):
        _CALLS[query] += 1
        rewards.append(judge(query, score, _CALLS[query]))
    return {"rewards": rewards}


def judge(query: str, score: float, number: int) -> float:
    """Return the reward of a response with this true score, 0 or 1, when it is scored for the ``number``-th time."""
    rng = random.Random(f"{number} {query}")
    if rng.random() < SURE:
        return (2 * score - 1) * rng.uniform(END, 1)
    return rng.uniform(-END, END)
