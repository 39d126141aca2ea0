"""Four ways in which a reward goes wrong: at the first and last ranks of a prompt, by following length, by errors that
repeat when the same responses are scored again, and by over-confidence: higher rewards whose true scores are lower.

Notation used for shapes: G groups (one prompt in one rollout), N samples a group, R rows (estimate and repetitions), B
groups of similar reward and equal count.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from openrlhf_pf.reliability.measures.bootstrap import DRAWS, Bootstrap, effective_units
from openrlhf_pf.reliability.measures.evaluate import Samples, cut_cells
from openrlhf_pf.reliability.measures.strategies import average_ties
from openrlhf_pf.reliability.measures.within import Deviations, center
from openrlhf_pf.reliability.read.checkpoints import Checkpoint

Floats = NDArray[np.float64]
Interval = dict[str, float | None]


def find_misranked(checkpoint: Checkpoint, bootstrap: Bootstrap, level: float = 0.95) -> dict[str, Interval]:
    """Compare neighbouring ranks at both ends, on prompts of the most common size; equal rewards share their ranks.

    Returns:
        The ends that are significantly misranked, to ``{estimate, low, high}`` of a difference in mean true score,
        which is below 0: "top", the first rank minus the second, as of a hacked reward model's favourites; "bottom",
        the last rank but one minus the last. {} where the most common size is below 3: both ends are one pair.
    """
    size = checkpoint.known.sum(axis=1)
    sizes = np.bincount(size, minlength=3)
    sizes[:2] = 0
    most_common = int(sizes.argmax())
    if most_common < 3:
        return {}
    rows = size == most_common
    reward = np.where(checkpoint.known, checkpoint.reward, np.nan)[rows]
    score = average_ties(np.where(checkpoint.known, checkpoint.score, 0.0)[rows], reward)
    ranked = np.take_along_axis(score, np.argsort(-reward, axis=1, kind="stable")[:, :most_common], axis=1)
    columns = [np.ones(len(ranked)), ranked[:, 0] - ranked[:, 1], ranked[:, -2] - ranked[:, -1]]
    block = bootstrap.block[checkpoint.prompt[rows]]
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = bootstrap.sum_up(block, columns)
        means = sums[:, 1:] / sums[:, :1]
    found = (bootstrap.summarize(m, "plain", level, len(np.unique(block))) for m in means.T)
    return {end: v for end, v in zip(("top", "bottom"), found) if v["high"] is not None and v["high"] < 0}


def measure_length(
    checkpoint: Checkpoint, away: Deviations, bootstrap: Bootstrap, level: float = 0.95
) -> dict[str, Interval] | None:
    """Compute partial correlations within prompts; None without lengths or where any of the three does not vary.

    Returns:
        ``{estimate, low, high}`` of reward and ``length`` at equal score, of reward and ``score`` at equal length, and
        the ``difference``, the size of the first minus that of the second.
    """
    if checkpoint.length is None or not away.known.any():
        return None
    reward = away.reward / max(np.abs(away.reward).max(), 1e-300)
    columns = (reward, away.score, center(checkpoint.length, away.known))
    products = [(columns[i] * columns[j]).sum(axis=1) for i in range(3) for j in range(i, 3)]
    rr, rs, rl, ss, sl, ll = bootstrap.sum_up(bootstrap.block[checkpoint.prompt], products).T
    if min(rr[0], ss[0], ll[0]) <= 0:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        r_s, r_l, s_l = rs / np.sqrt(rr * ss), rl / np.sqrt(rr * ll), sl / np.sqrt(ss * ll)
        length = (r_l - r_s * s_l) / np.sqrt((1 - r_s**2) * (1 - s_l**2))
        score = (r_s - r_l * s_l) / np.sqrt((1 - r_l**2) * (1 - s_l**2))
    return {
        "length": bootstrap.summarize(length, "correlation", level),
        "score": bootstrap.summarize(score, "correlation", level),
        "difference": bootstrap.summarize(np.abs(length) - np.abs(score), "plain", level),
    }


def measure_redrawn(checkpoint: Checkpoint, bootstrap: Bootstrap, level: float = 0.95) -> Interval | None:
    """Compute the share of the reward's error that scoring the same responses again redraws, from 0 to 1.

    Half the mean square of the differences between both scorings, divided by the mean square error: what the best
    line through the true scores leaves of a scoring. All values are deviations from their prompt's mean; both have the
    same N - 1 degrees of freedom per prompt, which cancel. The errors are those of both scorings, so that the share is
    1 minus their correlation.

    Returns:
        ``{estimate, low, high}``; None without second rewards, different true scores in a prompt, or errors.
    """
    if checkpoint.reward_again is None:
        return None
    known = checkpoint.known & np.isfinite(checkpoint.reward_again)
    known &= known.sum(axis=1, keepdims=True) > 1
    rewards = np.stack([center(x, known) for x in (checkpoint.reward, checkpoint.reward_again)])
    rewards /= max(np.abs(rewards).max(initial=0.0), 1e-300)
    score = center(checkpoint.score, known)
    block = bootstrap.block[checkpoint.prompt]
    columns = [(rewards[0] - rewards[1]) ** 2 / 2, (rewards**2).mean(axis=0), *(rewards * score), score**2]
    fresh, square, first, second, ss = bootstrap.sum_up(block, [x.sum(axis=1) for x in columns]).T
    with np.errstate(invalid="ignore", divide="ignore"):
        error = square - (first**2 + second**2) / (2 * ss)
        share = fresh / error
    if ss[0] <= 0 or error[0] <= 1e-9 * square[0]:
        return None
    slopes = np.array([first[0], second[0]])[:, None, None] / ss[0]
    errors = ((rewards - slopes * score) ** 2).sum(axis=(0, 2))
    units = effective_units(np.bincount(block, errors, bootstrap.n_blocks))
    # On the scale of the share itself: a logarithm of 0 would widen the intervals of shares near 0 and 1.
    found = bootstrap.summarize(share, "plain", level, units)
    return {end: None if value is None else min(max(value, 0.0), 1.0) for end, value in found.items()}


@dataclass
class Calibration:
    """Actual scores by groups of reward.

    Attributes:
        edges: (B, 2) lowest and highest reward of each group.
        reward: (B,) mean reward.
        score: (B,) mean score.
        isotonic: (B,) the best never-falling curve through the scores.
        low, high: (B,) interval of ``score``.
        top: number of highest groups that score below the groups under them, significantly in one joint test over all
            numbers; 0 if there is no such fall.
        fall: mean score of the same number of groups below these minus their own; NaN without.
    """

    edges: Floats
    reward: Floats
    score: Floats
    isotonic: Floats
    low: Floats
    high: Floats
    top: int
    fall: float

    @property
    def over_confident(self) -> NDArray[np.bool_]:
        """(B,) bool: the highest groups whose scores fall."""
        return np.arange(len(self.score)) >= len(self.score) - self.top


def calibrate(checkpoint: Checkpoint, bootstrap: Bootstrap, bins: int = 20, level: float = 0.95) -> Calibration | None:
    """Compare the scores of at most B groups of reward; None where rewards or scores do not differ.

    A calibrated reward model's mean score never falls from one group to the next, whatever the shape of the curve.
    """
    samples = Samples.of(checkpoint, bootstrap, 0.5)
    if not len(samples.take) or samples.unit[-1] < 1 or not np.ptp(samples.score):
        return None
    one = np.ones(len(samples.take))
    cell, n_cells = cut_cells(samples.unit, one, bins)
    r = samples.reward - samples.reward.mean()
    sums = bootstrap.resample(bootstrap.table(samples.block, [one, r, samples.score], cell, n_cells))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums[..., 1:] / sums[..., :1]
    score = means[0, :, 1]
    away = means[1:, :, 1] - np.nanmedian(means[1:, :, 1], axis=0)
    ends = np.nanquantile(away, [(1 - level) / 2, (1 + level) / 2], axis=0) * np.sqrt(DRAWS)
    first = np.flatnonzero(np.concatenate([[True], np.diff(cell) > 0]))
    last = np.concatenate([first[1:], [len(cell)]]) - 1
    return Calibration(
        np.stack([samples.reward[first], samples.reward[last]], axis=1),
        means[0, :, 0] + samples.reward.mean(),
        score,
        optimize.isotonic_regression(score, weights=sums[0, :, 0]).x,
        *(score + ends),
        *_find_fall(sums[..., [0, 2]], level),
    )


def _find_fall(sums: Floats, level: float) -> tuple[int, float]:
    """Return the number of top groups that score below as many groups under them, and by how much; (0, NaN) if none.

    ``sums`` (R, B, 2) are weight and weighted score; ``level`` is that of one joint test of all numbers of groups.
    """
    sizes = np.arange(1, sums.shape[1] // 2 + 1)
    falls = []
    for size in sizes:
        top, below = sums[:, -size:].sum(axis=1), sums[:, -2 * size : -size].sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            falls.append(below[:, 1] / below[:, 0] - top[:, 1] / top[:, 0])
    falls = np.stack(falls, axis=1)
    error = np.nanstd(falls[1:], axis=0)
    some = error > 0
    if not some.any():
        return 0, np.nan
    standard = (falls[1:] - np.nanmedian(falls[1:], axis=0))[:, some] / error[some]
    # One-sided, as only falls are reported.
    most = np.quantile(np.nan_to_num(standard).max(axis=1), (1 + level) / 2)
    surplus = np.where(some, falls[0] / np.where(some, error, 1.0) / np.sqrt(DRAWS) - most, -np.inf)
    best = int(surplus.argmax())
    return (int(sizes[best]), float(falls[0, best])) if surplus[best] > 0 else (0, np.nan)
