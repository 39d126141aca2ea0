"""Agreement of rewards and scores within prompts: what filters of group scope and baselines per prompt can use.

Rewards and scores are taken as deviations from their prompt's mean, d and s. docs/when_to_filter.md derives these:

* **gain**: the slope of the mean true score along the policy gradient of the kept samples, their rewards whitened as
  PPO whitens advantages: E_w[(d - c) s] / sd, with c and sd the mean and spread of d over the kept samples.
* **gain, kept baseline**: the same, where an estimator takes the baseline from the kept samples of the prompt.
* **signal to noise** (J): E_w[d s] / sqrt(E_w[d²] / k), the effect of a step with k samples divided by its noise.

Notation used for shapes: G groups (one prompt in one rollout), N samples a group at most, R rows (the estimate and the
repetitions of a bootstrap).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from openrlhf_pf.filters.adaptive import gain
from openrlhf_pf.reliability.measures.bootstrap import effective_units
from openrlhf_pf.reliability.read.checkpoints import Checkpoint

Floats = NDArray[np.float64]

#: The metrics of :func:`compute_within`, and the rows of :func:`sum_within` that hold their spreads of rewards and of
#: scores.
SPREADS = {
    "gain": (3, 5),
    "gain_kept": (6, 5),
    "signal_to_noise": (3, 5),
    "within_r2": (3, 5),
    "within_spearman": (8, 10),
}
METRICS_WITHIN = tuple(SPREADS)


class Deviations(NamedTuple):
    """(G, N) each, 0 where a sample lacks reward or score, or is alone in its group."""

    reward: Floats
    score: Floats
    reward_rank: Floats
    score_rank: Floats
    known: NDArray[np.bool_]


def deviations_of(checkpoint: Checkpoint) -> Deviations:
    """Return rewards, scores and their mid-ranks minus the group's mean; groups with one known sample drop out."""
    known = checkpoint.known & (checkpoint.known.sum(axis=1, keepdims=True) > 1)
    values = [checkpoint.reward, checkpoint.score]
    values += [mid_ranks(x, known) for x in values]
    return Deviations(*(center(x, known) for x in values), known)


def center(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """Return (G, N) values minus the mean of the known ones of their row; 0 where not ``known``."""
    filled = np.where(known, values, 0.0)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    away = np.where(known, filled - filled.sum(axis=1, keepdims=True) / count, 0.0)
    # A difference no larger than the rounding error of the values is 0.
    return np.where(np.abs(away) > 1e-9 * np.abs(filled).max(axis=1, keepdims=True), away, 0.0)


def mid_ranks(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """Return (G, N) the rank of each value in its row from 0 to 1, ties sharing the mean; 0 where not ``known``."""
    ranks = stats.rankdata(np.where(known, values, np.nan), axis=1, nan_policy="omit") - 1
    return np.where(known, ranks / np.maximum(known.sum(axis=1, keepdims=True) - 1, 1), 0.0)


def sum_within(weights: Floats, away: Deviations) -> Floats:
    """Return (11, G) sums over the samples of each group that :func:`compute_within` needs, of weights (G, N)."""
    w = weights * away.known
    wd, ws = w * away.reward, w * away.score
    n, d, s = (x.sum(axis=1) for x in (w, wd, ws))
    dd, ds, ss = ((x * y).sum(axis=1) for x, y in ((wd, away.reward), (wd, away.score), (ws, away.score)))
    each = np.where(n > 0, n, 1.0)
    wa = w * away.reward_rank
    ranks = [(x * y).sum(axis=1) for x, y in ((wa, away.reward_rank), (wa, away.score_rank), (w, away.score_rank**2))]
    return np.stack([n, d, s, dd, ds, ss, dd - d * d / each, ds - d * s / each, *ranks])


def compute_within(sums: Floats, keep: float) -> dict[str, Floats]:
    """Return ``METRICS_WITHIN``, (R,) each, from sums (R, 11) of :func:`sum_within` and k samples a prompt that train.

    ``within_r2`` is the signed correlation. A gain is 0 where the kept rewards do not differ: no advantage is left to
    train on; a correlation is NaN there.
    """
    n, d, s, dd, ds, ss, kept_dd, kept_ds, aa, ab, bb = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        size = dd / n
        var_d, var_s = size - (d / n) ** 2, ss / n - (s / n) ** 2
        covariance = ds / n - d * s / n**2
        least = 1e-18 * np.maximum(size, np.finfo(float).tiny)
        some, kept = var_d > 1e-9 * size + least, kept_dd / n > 1e-9 * size + least
        scale = np.sqrt(np.where(size > 0, size, 1.0))
        gains = gain(np.stack([n, d / scale, s, dd / scale**2, ds / scale], axis=-1))
        gains_kept = gain(np.stack([n, 0 * n, 0 * n, kept_dd / scale**2, kept_ds / scale], axis=-1))
        signal = np.where(size > 0, ds / n / np.sqrt(size / keep), 0.0)
        both = some & (var_s > 1e-12)
        correlation = np.where(both, covariance / np.sqrt(np.where(both, var_d * var_s, 1.0)), np.nan)
        ranks = np.where((aa > 0) & (bb > 0), ab / np.sqrt(aa * bb), np.nan)
    unknown = np.where(n > 0, 0.0, np.nan)
    found = (
        np.where(some, gains, 0.0) + unknown,
        np.where(kept, gains_kept, 0.0) + unknown,
        signal + unknown,
        correlation.clip(-1, 1),
        ranks.clip(-1, 1),
    )
    return dict(zip(METRICS_WITHIN, found))


def units_of(sums: Floats, block: NDArray[np.int64], n_blocks: int) -> dict[str, float]:
    """Return for each of ``METRICS_WITHIN`` how many equal blocks carry as much information.

    A prompt whose scores are all equal carries nothing; one whose rewards lie twenty times as far apart as others'
    counts four hundred times in the spread of advantages. The scarcer of both limits the information. The degrees of
    freedom of a spread are about twice the effective number of squares (Satterthwaite), and units one more.
    ``sums`` (11, G) are those of :func:`sum_within`, ``block`` (G,) of J blocks.
    """

    def count_units(row: int) -> float:
        spread = np.bincount(block, np.maximum(sums[row], 0.0), n_blocks)  # a spread of 0 may round to less
        spread /= spread.max()
        return min(effective_units(spread), 1 + 2 * effective_units(spread**2))

    known = {
        row: count_units(row) for row in {row for pair in SPREADS.values() for row in pair} if (sums[row] > 0).any()
    }
    # Where no rewards differ, a gain of 0 is no estimate.
    return {name: min(known.get(r, np.inf), known.get(s, 0.0)) for name, (r, s) in SPREADS.items()}
