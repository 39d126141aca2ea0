"""What true scores say of weights: gain, and signal to noise (J). The one definition of both.

With d a reward and s a true score, each minus its prompt's mean, rank j has c_j = E[s d], v_j = E[d²].

* **Gain** is the slope of the mean true score along the policy gradient of the kept samples, with rewards whitened as
  PPO whitens advantages: E_w[(d - E_w d) s] / sd_w(d).
* **Signal to noise**: a step that takes the sample of rank j n_j times moves the mean true score by sum n_j c_j, with
  noise sqrt(sum n_j² v_j): the gradients of different samples are taken as orthogonal and equally long. So
  J = sum E[n] c / sqrt(sum E[n²] v), which does not change when all n are scaled by one factor.

docs/when_to_filter.md derives both; this project's own.

Notation used for array shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, L
multipliers.
"""

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters.base import SampleFilter, scaled
from openrlhf_pf.filters.batch import FilterBatch, is_usable
from openrlhf_pf.filters.rank import spread_ranks

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


# ── Gain ──


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


# ── Signal to noise ──


def rank_sums(batch: FilterBatch, known: ndarray) -> ndarray:
    """Return (3, N) by rank: number of samples, sum of s d, sum of d²; c and v are the latter by the first.

    A prompt with n < N usable rewards adds to n ranks, evenly spaced, as ``rank_weights`` does; one with a single
    ``known`` (G, N) sample adds nothing.
    """
    known = known & (known.sum(axis=1, keepdims=True) > 1)
    d, s = deviations(batch.rewards, known), deviations(batch.scores, known)
    return np.stack([by_rank(values * known, batch).sum(axis=0) for values in (np.ones_like(d), s * d, d * d)])


def by_rank(values: ndarray, batch: FilterBatch) -> ndarray:
    """Return (G, N) the value of the sample at each rank, of values (G, N) of the samples.

    A prompt with n < N usable rewards has values at n ranks, evenly spaced, as ``rank_weights`` does, and 0 elsewhere.
    """
    ranked, n = np.take_along_axis(values, batch.order, axis=1), values.shape[1]
    for n_usable in np.unique(batch.n_usable[batch.n_usable < n]).tolist():
        rows = batch.n_usable == n_usable
        spread = np.zeros((int(rows.sum()), n), dtype=ranked.dtype)
        spread[:, spread_ranks(n_usable, n)] = ranked[rows, :n_usable]
        ranked[rows] = spread
    return ranked


def expected_counts(weights: ndarray, keep: int, mode: str) -> tuple[ndarray, ndarray]:
    """Return E[n] and E[n²] (..., N) of how often each rank trains, of weights (..., N) with sum 1 under a draw.

    ``select`` takes a rank floor(k w) or ceil(k w) times, ``resample`` as often as a binomial of k draws, ``reweight``
    w times.
    """
    if mode == "reweight":
        return weights, weights**2
    mean = keep * weights
    if mode == "resample":
        return mean, mean * (1 - weights) + mean**2
    whole = np.floor(mean + 1e-9)
    rest = (mean - whole).clip(min=0.0)
    return mean, whole**2 + rest * (2 * whole + 1)


def signal_to_noise(weights: ndarray, c: ndarray, v: ndarray, keep: int, mode: str) -> ndarray:
    """Return (...,) J of weights (..., N) under a draw; 0 where there is no noise, hence no reward that differs."""
    mean, square = expected_counts(weights, keep, mode)
    signal, noise = (mean * c).sum(axis=-1), (square * v).sum(axis=-1)
    return np.where(noise > 0, signal / np.sqrt(noise.clip(min=_TINY)), 0.0)


def closed_form(c: ndarray, v: ndarray) -> ndarray:
    """Return the (N,) weights of largest J when advantages are scaled: in proportion to max(0, c / v), 0 if v is 0."""
    weights = np.where(v > 0, c / v.clip(min=_TINY), 0.0).clip(min=0.0)
    return scaled(weights, weights.sum())


def best_subset(c: ndarray, v: ndarray, keep: int) -> ndarray:
    """Return (N,) 1/k on the k ranks with the largest sum of c by the root of their sum of v, where that is above 0.

    Exact, without listing the subsets: sum c / sqrt(sum v) rises with sum c, falls with sum v, and is quasi-convex
    where sum c > 0, so that its largest value lies at a corner of the convex hull of (sum v, sum c): k ranks with the
    largest c - m v for a multiplier m >= 0. These change only where two ranks change places, at one of N (N - 1) / 2
    values of m. Ranks with v = 0, where no reward ever differs, are left out; so fewer than k may be left.
    """
    some = v > 0
    size = min(keep, int(some.sum()))
    i, j = np.triu_indices(len(c), 1)
    crossing = some[i] & some[j] & (v[i] != v[j])
    i, j = i[crossing], j[crossing]
    crossings = (c[i] - c[j]) / (v[i] - v[j])
    crossings = np.sort(crossings[crossings > 0])
    ends = np.concatenate([[0.0], crossings, crossings[-1:] * 2 + 1])
    multipliers = np.concatenate([ends[:1], (ends[1:] + ends[:-1]) / 2])
    keys = np.where(some, c - multipliers[:, None] * v, -np.inf)  # (L, N)
    ranks = np.argsort(-keys, axis=1, kind="stable")[:, :size]
    value = c[ranks].sum(axis=1) / np.sqrt(v[ranks].sum(axis=1))
    best = np.zeros_like(c)
    best[ranks[value.argmax()]] = 1.0 / size
    return best


# ── Evidence over rollouts ──


def decayed(sums: list[ndarray], half_life: float) -> ndarray:
    """Return (rollouts, ...) the sums of each rollout, oldest first, with the weight that their age leaves them."""
    stacked = np.stack(sums)
    age = np.arange(len(stacked) - 1, -1, -1)
    return stacked * (0.5 ** (age / half_life)).reshape(-1, *[1] * (stacked.ndim - 1))
