"""Is the reward right within a prompt? What filters of group scope, and baselines per prompt, can see.

Rewards and scores are taken as deviations from their prompt's mean, d and s: what is left is whether the better
response of a prompt has the higher reward. docs/gain.md derives the figures:

* **gain**: the slope of the mean true score along the policy gradient of the kept samples, their rewards whitened as
  PPO whitens advantages: E_w[(d - c) s] / sd, with c and sd the mean and spread of d over the kept samples.
* **gain, kept baseline**: the same, where an estimator takes the baseline from the kept samples of the prompt.
* **signal to noise** (J): E_w[d s] / sqrt(E_w[d²] / k), what a step of k samples a prompt moves, by its noise.

Notation used for shapes: G groups (one prompt in one rollout), N samples a group at most, R repetitions.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.reliability.bootstrap import Bootstrap, interval
from openrlhf_pf.reliability.data import Checkpoint

Floats = NDArray[np.float64]

#: What :func:`metrics_of` computes, and which rows of :func:`sums_of` each takes its spreads from, of rewards and of
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
    """Rewards, scores and their mid-ranks, less the group's mean; groups with fewer than two known ones drop out."""
    known = checkpoint.known & (checkpoint.known.sum(axis=1, keepdims=True) > 1)
    values = [
        checkpoint.reward,
        checkpoint.score,
        *(mid_ranks(x, known) for x in (checkpoint.reward, checkpoint.score)),
    ]
    return Deviations(*(_centred(x, known) for x in values), known)


def _centred(values: Floats, known: NDArray[np.bool_]) -> Floats:
    filled = np.where(known, values, 0.0)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    away = np.where(known, filled - filled.sum(axis=1, keepdims=True) / count, 0.0)
    # What is no more than the rounding of the values themselves is no difference.
    return np.where(np.abs(away) > 1e-9 * np.abs(filled).max(axis=1, keepdims=True), away, 0.0)


def mid_ranks(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """(G, N) rank of each value in its row from 0 to 1, equal values sharing the mean; 0 where not ``known``."""
    order = np.argsort(np.where(known, values, np.inf), axis=1, kind="stable")
    ranked = np.take_along_axis(np.where(known, values, np.inf), order, axis=1)
    n, place = ranked.shape[1], np.arange(ranked.shape[1])
    starts = np.ones(ranked.shape, bool)
    starts[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    ends = np.ones_like(starts)
    ends[:, :-1] = starts[:, 1:]
    first = np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, place, n)[:, ::-1], axis=1)[:, ::-1]
    result = np.empty(ranked.shape)
    np.put_along_axis(result, order, (first + last) / 2, axis=1)
    return np.where(known, result / np.maximum(known.sum(axis=1, keepdims=True) - 1, 1), 0.0)


def sums_of(weights: Floats, away: Deviations) -> Floats:
    """(11, G) sums over the samples of each group that :func:`metrics_of` needs, of weights (G, N)."""
    w = weights * away.known
    wd, ws = w * away.reward, w * away.score
    n, d, s = (x.sum(axis=1) for x in (w, wd, ws))
    dd, ds, ss = ((x * y).sum(axis=1) for x, y in ((wd, away.reward), (wd, away.score), (ws, away.score)))
    each = np.where(n > 0, n, 1.0)
    wa = w * away.reward_rank
    ranks = [(x * y).sum(axis=1) for x, y in ((wa, away.reward_rank), (wa, away.score_rank), (w, away.score_rank**2))]
    return np.stack([n, d, s, dd, ds, ss, dd - d * d / each, ds - d * s / each, *ranks])


def metrics_of(sums: Floats, keep: float) -> dict[str, Floats]:
    """Figures from sums.

    Args:
        sums: (R, 11) of :func:`sums_of`, added over groups.
        keep: k, samples a prompt that train.

    Returns:
        (R,) each of ``METRICS_WITHIN``; ``within_r2`` as the signed correlation. A gain is 0 where the kept rewards do
        not differ, for then no advantage is left to train on; a correlation is NaN there.
    """
    n, d, s, dd, ds, ss, kept_dd, kept_ds, aa, ab, bb = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        size = dd / n
        var_d, var_s = size - (d / n) ** 2, ss / n - (s / n) ** 2
        covariance = ds / n - d * s / n**2
        least = 1e-18 * np.maximum(size, np.finfo(float).tiny)
        some, kept = var_d > 1e-9 * size + least, kept_dd / n > 1e-9 * size + least
        gain = np.where(some, covariance / np.sqrt(np.where(some, var_d, 1.0)), 0.0)
        gain_kept = np.where(kept, kept_ds / n / np.sqrt(np.where(kept, kept_dd / n, 1.0)), 0.0)
        signal = np.where(size > 0, ds / n / np.sqrt(size / keep), 0.0)
        both = some & (var_s > 1e-12)
        correlation = np.where(both, covariance / np.sqrt(np.where(both, var_d * var_s, 1.0)), np.nan)
        ranks = np.where((aa > 0) & (bb > 0), ab / np.sqrt(aa * bb), np.nan)
    unknown = np.where(n > 0, 0.0, np.nan)
    found = (gain + unknown, gain_kept + unknown, signal + unknown, correlation.clip(-1, 1), ranks.clip(-1, 1))
    return dict(zip(METRICS_WITHIN, found))


def effective(per_block: Floats) -> float:
    """How many equal units know as much as units of these sizes (J,): Kish, squared sum by sum of squares."""
    squares = float((per_block**2).sum())
    return float(per_block.sum()) ** 2 / squares if squares > 0 else 0.0


def units_of(sums: Floats, block: NDArray[np.int64], n_blocks: int) -> dict[str, float]:
    """For each of ``METRICS_WITHIN``, how many equal blocks know as much as these.

    A prompt whose scores are all equal moves nothing, and one whose rewards lie twenty times as far apart as others'
    counts four hundred times in the spread that advantages are divided by: the scarcer of both limits what is known.
    A spread of which few prompts make up most varies by their squares, which are fewer still: its degrees of freedom
    are about twice as many as these (Satterthwaite), and units one more.

    Args:
        sums: (11, G) of :func:`sums_of`.
        block: (G,) the block of each group.
        n_blocks: J.
    """

    def behind(row: int) -> float:
        spread = np.bincount(block, np.maximum(sums[row], 0.0), n_blocks)  # a spread of 0 may round to less
        spread /= spread.max()
        return min(effective(spread), 1 + 2 * effective(spread**2))

    known = {row: behind(row) for row in {row for pair in SPREADS.values() for row in pair} if (sums[row] > 0).any()}
    # Where no rewards differ, nothing is left to train on: a gain of 0 is then no estimate.
    return {name: min(known.get(r, np.inf), known.get(s, 0.0)) for name, (r, s) in SPREADS.items()}


# ── Within and between ──


@dataclass
class Split:
    """Where rewards and scores differ, and agree: between prompts, or between the responses of one.

    Attributes:
        reward_between, score_between: share of the variance that lies between prompts, ``{estimate, low, high}``; the
            noise of a prompt's mean is taken off.
        correlation_between: of the prompts' mean rewards and mean scores.
        correlation_within: of deviations from the prompts' means.
    """

    reward_between: dict[str, float]
    score_between: dict[str, float]
    correlation_between: dict[str, float]
    correlation_within: dict[str, float]


def split(checkpoint: Checkpoint, away: Deviations, bootstrap: Bootstrap, level: float = 0.95) -> Split | None:
    """Split variance and agreement; None where no prompt has two scored responses."""
    count = away.known.sum(axis=1).astype(float)
    some = count > 1
    if not some.any():
        return None
    known = away.known[some]
    centre = [float(x[checkpoint.known].mean()) for x in (checkpoint.reward, checkpoint.score)]
    count = count[some]
    m, t = (
        np.where(known, x[some] - c, 0.0).sum(axis=1) / count
        for x, c in zip((checkpoint.reward, checkpoint.score), centre)
    )
    d, s = away.reward[some], away.score[some]
    inner = [(x * y).sum(axis=1) for x, y in ((d, d), (s, s), (d, s))]
    noise = [x / (count - 1) / count for x in inner[:2]]
    columns = [np.ones_like(count), m, t, m * m, t * t, m * t, *inner, count - 1, *noise]
    block = bootstrap.block[checkpoint.prompt[some]]
    estimates = _shares(np.array([[x.sum() for x in columns]]))
    draws = _shares(bootstrap.sums(block, columns)[:, 0])
    units = effective(np.bincount(block, minlength=bootstrap.n_blocks).astype(float))
    found = []
    for number, kind in enumerate(("share", "share", "correlation", "correlation")):
        estimate = float(estimates[number][0])
        low, high = interval(estimate, draws[number], kind, bootstrap.n_blocks, level, units)
        found.append({"estimate": estimate, "low": low, "high": high})
    return Split(*found)


def _shares(sums: Floats) -> list[Floats]:
    n, m, t, mm, tt, mt, dd, ss, ds, df, noise_m, noise_t = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        var_m, var_t = mm / n - (m / n) ** 2, tt / n - (t / n) ** 2
        shares = []
        for spread, noise, inner in ((var_m, noise_m / n, dd / df), (var_t, noise_t / n, ss / df)):
            between = np.maximum(spread - noise, 0.0)
            shares.append(between / (between + inner))
        outer = np.where((var_m > 0) & (var_t > 0), (mt / n - m * t / n**2) / np.sqrt(var_m * var_t), np.nan)
        inner = np.where((dd > 0) & (ss > 0), ds / np.sqrt(dd * ss), np.nan)
    return [*shares, outer.clip(-1, 1), inner.clip(-1, 1)]
