"""Preference pairs for the reward model: for one prompt, a sampled response that passes the tests and one that does
not.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from .tasks import Task


def preference_pairs(
    tasks: Sequence[Task], responses: Sequence[Sequence[str]], scores: np.ndarray, per_prompt: int, seed: int
) -> list[dict[str, str]]:
    """Rows ``{"prompt", "chosen", "rejected"}``, at most ``per_prompt`` for each task and none twice.

    ``scores`` (tasks, samples) are the true scores of ``responses``. A task whose samples all pass or all fail gives
    no pair.
    """
    rng = random.Random(f"micro-code pairs {seed}")
    rows = []
    for task, texts, passed in zip(tasks, responses, scores):
        good = sorted({text for text, ok in zip(texts, passed) if ok})
        bad = sorted({text for text, ok in zip(texts, passed) if not ok})
        candidates = [(g, b) for g in good for b in bad]
        for chosen, rejected in rng.sample(candidates, min(per_prompt, len(candidates))):
            rows.append({"prompt": task.prompt, "chosen": chosen, "rejected": rejected})
    rng.shuffle(rows)
    return rows
