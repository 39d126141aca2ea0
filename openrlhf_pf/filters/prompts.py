"""Prompts that do not train at all, whatever a sample filter would keep of them.

Notation used for array shapes: G prompts (groups), N scored samples a prompt.
"""

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters.batch import FilterBatch, is_usable

#: Default share of the variance that is kept (RAGEN-2's own default is not known to us).
VARIANCE_SHARE = 0.9


def variance_top_p(batch: FilterBatch, share: float = VARIANCE_SHARE) -> ndarray:
    """Return (G,) bool: the smallest set of prompts with ``share`` of the rollout's within-prompt reward variance.

    As in RAGEN-2 (arXiv 2604.06268). A prompt whose rewards are all equal has none and is never in it.
    """
    n_usable = batch.n_usable.clip(min=1)
    rewards = np.where(batch.usable, batch.rewards, 0.0).astype(np.float64)
    mean = rewards.sum(axis=1) / n_usable
    variance = (np.where(batch.usable, rewards - mean[:, None], 0.0) ** 2).sum(axis=1) / n_usable
    variance = np.where(batch.flat, 0.0, variance)
    order = np.argsort(-variance, kind="stable")
    ordered = variance[order]
    before = ordered.cumsum() - ordered
    kept = np.empty(len(order), dtype=bool)
    kept[order] = (ordered > 0) & (before < share * ordered.sum() * (1 - 1e-12))
    return kept


def band(batch: FilterBatch, low: float, high: float) -> ndarray:
    """Return (G,) bool: the mean true score of a prompt's samples lies between ``low`` and ``high``, both included.

    Without true scores the mean reward counts; a prompt with neither is out.
    """
    values = batch.rewards if batch.scores is None else batch.scores
    known = batch.usable & is_usable(values)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, values, 0.0).astype(np.float64).sum(axis=1) / known.sum(axis=1)
    return (mean >= low) & (mean <= high)
