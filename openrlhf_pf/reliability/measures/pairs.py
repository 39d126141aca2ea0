"""Pair accuracy within prompts: of two responses to one prompt, does the better one have the higher reward?

The only definition of it; numpy alone, so that training can import it.

Notation used for shapes: G groups (one prompt in one rollout), N samples a group.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Samples whose pairs are computed together, which stay in the processor's cache.
CHUNK = 40_000


def count_pairs(rewards: ArrayLike, scores: ArrayLike, weights: Sequence[ArrayLike] | None = None) -> Floats:
    """Count the pairs of one prompt with different true scores, and those that the reward orders correctly.

    A pair counts with the product of its weights: its probability when two samples are drawn independently. Equal
    rewards count half. Samples without a finite reward and score are in no pair.

    Args:
        rewards, scores: (G, N).
        weights: one (G, N) per strategy; None for a single strategy with weight 1 throughout.

    Returns:
        (strategies, 2, G): weight of the correctly ordered pairs, and of all pairs.
    """
    rewards, scores = np.asarray(rewards, float), np.asarray(scores, float)
    missing = ~(np.isfinite(rewards) & np.isfinite(scores))
    rewards, scores = np.where(missing, np.nan, rewards), np.where(missing, np.nan, scores)
    weights = [np.ones(rewards.shape)] if weights is None else weights
    n_groups, n_samples = rewards.shape
    sums = np.zeros((len(weights), 2, n_groups))
    step = max(CHUNK // max(n_samples, 1), 1)
    for start in range(0, n_groups, step):
        rows = slice(start, start + step)
        reward, score = (np.ascontiguousarray(x[rows].T) for x in (rewards, scores))
        weight = np.stack([np.asarray(w, float)[rows].T for w in weights])
        for i in range(1, n_samples):
            order = np.sign(score[i] - score[:i])
            agreement = np.sign(reward[i] - reward[:i]) * order
            known = (order != 0) & np.isfinite(agreement)
            correct = np.where(known, (1 + agreement) / 2, 0.0)
            for which, pairs in enumerate((correct, known.astype(float))):
                sums[:, which, rows] += weight[:, i] * np.einsum("kjg,jg->kg", weight[:, :i], pairs)
    return sums


def pair_accuracy(sums: Floats) -> Floats:
    """Return (R,) accuracy from (R, 2) weight of correctly ordered and of all pairs; NaN without pairs."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], np.nan)
