"""A judge of micro-code that is right at both ends of its scale and says nothing in between, as a reward function.

One look in five it recognizes whether the response passes, and says so at the end of its scale; else it guesses. A
second look at the same response errs anew, as one at another response would: unlike a reward model, whose errors stay.
"""

from __future__ import annotations

import random
import runpy
from collections import Counter
from pathlib import Path

#: The share of looks at which it is sure, and where on its scale from -1 to 1 it is.
SURE, END = 0.2, 0.9
# By path: the trainer loads this file by its path, too.
_TRUE_SCORE = runpy.run_path(str(Path(__file__).parents[2] / "micro_code" / "true_score.py"))["reward_func"]
_LOOKS: Counter[str] = Counter()


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, list[float]]:
    """Rewards in [-1, 1], the same ones for the same looks in the same process, in whatever order prompts come."""
    rewards = []
    for query, score in zip(queries, _TRUE_SCORE(queries, prompts, labels)["rewards"]):
        _LOOKS[query] += 1
        rewards.append(look(query, score, _LOOKS[query]))
    return {"rewards": rewards}


def look(query: str, score: float, number: int) -> float:
    """What the judge says at this look at a response with this true score, 0 or 1."""
    rng = random.Random(f"{number} {query}")
    if rng.random() < SURE:
        return (2 * score - 1) * rng.uniform(END, 1)
    return rng.uniform(-END, END)
