"""The judge of judge.py with errors that repeat, as a reward model's do."""

import runpy
from pathlib import Path

# By path: the trainer loads this file by its path, too.
_JUDGE = runpy.run_path(str(Path(__file__).with_name("judge.py")))


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, list[float]]:
    """Return rewards in [-1, 1], the same in every call."""
    scores = _JUDGE["_TRUE_SCORE"](queries, prompts, labels)["rewards"]
    return {"rewards": [_JUDGE["judge"](query, score, 1) for query, score in zip(queries, scores)]}
