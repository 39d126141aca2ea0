"""The judge of judge.py with errors that stay, as a reward model's do: a second look at a response says the same."""

from __future__ import annotations

import runpy
from pathlib import Path

# By path: the trainer loads this file by its path, too.
_JUDGE = runpy.run_path(str(Path(__file__).with_name("judge.py")))
_LOOK, _TRUE_SCORE = _JUDGE["look"], _JUDGE["_TRUE_SCORE"]


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, list[float]]:
    """Rewards in [-1, 1], always the same one for a response."""
    scores = _TRUE_SCORE(queries, prompts, labels)["rewards"]
    return {"rewards": [_LOOK(query, score, 1) for query, score in zip(queries, scores)]}
