"""Gain: what true scores say of a filter, and the moments of reward and score that it is made of.

With d a reward and s a true score, each minus its prompt's mean, rank j has c_j = E[s d], v_j = E[d²].

* **Gain** is the slope of the mean true score along the policy gradient of the kept samples, with rewards whitened as
  PPO whitens advantages: E_w[(d - E_w d) s] / sd_w(d).
* **Signal to noise**, J: a step that takes rank j n_j times moves the mean true score by sum n_j c_j, with
  noise sqrt(sum n_j² v_j), if the gradients of different samples are orthogonal and equally long. So
  J = sum E[n] c / sqrt(sum E[n²] v), which does not change when all n are scaled by one factor.

docs/when_to_filter.md explains both; this project's own.

Notation used for array shapes: G prompts (groups), N scored samples a prompt.
"""

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters.base import SampleFilter
from openrlhf_pf.filters.batch import FilterBatch, is_usable

#: Stands in for 0 in a denominator.
_TINY = 1e-300


def known_samples(batch: FilterBatch) -> ndarray | None:
    """Return (G, N) bool: reward and true score are usable; None where there is no such sample."""
    if batch.scores is None:
        return None
    known = batch.usable & is_usable(batch.scores)
    return known if known.any() else None


def deviations(values: ndarray, known: ndarray) -> ndarray:
    """Return (G, N) float64 values minus their prompt's mean over the ``known`` ones; of others it means nothing."""
    filled = np.where(known, values, 0.0).astype(np.float64)
    return filled - filled.sum(axis=1, keepdims=True) / known.sum(axis=1, keepdims=True).clip(min=1)


def moments(candidate: SampleFilter, batch: FilterBatch, known: ndarray) -> ndarray:
    """Return (5,) sums of w, w d, w s, w d d, w d s over samples with a true score, w the candidate's weight.

    Rewards d and scores s are taken from their prompt's means over ``known`` (G, N); a prompt with a single known
    sample adds nothing. Weights are expectations over the draw: nothing is drawn for them.
    """
    w = candidate(batch) * known * (known.sum(axis=1, keepdims=True) > 1)
    d, s = deviations(batch.rewards, known), deviations(batch.scores, known)
    return np.array([(w * x).sum() for x in (np.ones_like(w), d, s, d * d, d * s)])


def gain(sums: ndarray) -> ndarray:
    """Return (...,) gain from moments (..., 5), in units of true score; 0 where the kept rewards have no spread."""
    w, d, s, dd, ds = np.moveaxis(sums, -1, 0)
    w = w.clip(min=_TINY)
    covariance, spread = ds / w - (d / w) * (s / w), dd / w - (d / w) ** 2
    return np.where(spread > 1e-12, covariance / np.sqrt(spread.clip(min=_TINY)), 0.0)
