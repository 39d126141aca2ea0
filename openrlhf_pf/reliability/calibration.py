"""Where the reward model promises more than it keeps.

Reward and score have different scales, so the reward's promise is what a straight line through all samples predicts.
A region of rewards is over-confident when its mean score lies below the line, beyond the interval.

Notation used for shapes: B bins of equal count.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from openrlhf_pf.reliability.bootstrap import DRAWS, Bootstrap
from openrlhf_pf.reliability.data import Checkpoint
from openrlhf_pf.reliability.evaluate import Samples, cells

Floats = NDArray[np.float64]


@dataclass
class Calibration:
    """Predicted against actual score, by bins of reward.

    Attributes:
        edges: (B, 2) lowest and highest reward of each bin.
        reward: (B,) mean reward.
        score: (B,) mean score.
        linear: (B,) what the line predicts.
        isotonic: (B,) what the best never-falling curve predicts.
        low, high: (B,) interval of ``score - linear``.
        surely_below: (B,) upper end of one statement about all bins together: ten bins that are looked at one by one
            would call one of a straight reward model's over-confident in a fifth of all cases.
    """

    edges: Floats
    reward: Floats
    score: Floats
    linear: Floats
    isotonic: Floats
    low: Floats
    high: Floats
    surely_below: Floats

    @property
    def over_confident(self) -> NDArray[np.bool_]:
        """(B,) bool: the upper half of the rewards, where the actual score is below the line for certain."""
        return (self.surely_below < 0) & (np.arange(len(self.reward)) >= len(self.reward) // 2)

    def words(self, name: str) -> str:
        """One sentence."""
        worst = np.flatnonzero(self.over_confident)
        if not len(worst):
            return f"{name}: no group of high rewards scores below what the line through all samples predicts."
        spans = []
        for run in np.split(worst, np.flatnonzero(np.diff(worst) > 1) + 1):
            gap = float((self.linear - self.score)[run].mean())
            span = f"{self.edges[run[0], 0]:.3g} to {self.edges[run[-1], 1]:.3g}"
            spans.append(f"{span} (scores are {gap:.3f} lower than predicted)")
        return f"{name}: the reward model is over-confident at rewards from {', and from '.join(spans)}."


def calibrate(checkpoint: Checkpoint, bootstrap: Bootstrap, bins: int = 20, level: float = 0.95) -> Calibration | None:
    """Compare predicted and actual scores; None where rewards do not differ.

    Args:
        checkpoint: the samples.
        bootstrap: the repetitions, for this checkpoint's prompts.
        bins: B at most; fewer where there are fewer different rewards.
        level: of the intervals.
    """
    samples = Samples.of(checkpoint, bootstrap, 0.5)
    if not len(samples.take) or samples.unit[-1] < 1:
        return None
    one = np.ones(len(samples.take))
    cell, n_cells = cells(samples.unit, one, bins)
    r = samples.reward - samples.reward.mean()
    columns = [one, r, samples.score, r * r, r * samples.score]
    estimate = np.stack([np.bincount(cell, column) for column in columns], axis=-1)[None]
    reward, score, linear = _fit(estimate)
    draws = _fit(bootstrap.sums(samples.block, columns, cell, n_cells))
    gap = draws[1] - draws[2]
    away = np.nanquantile(gap - np.nanmedian(gap, axis=0), [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = (score - linear)[0] + away * np.sqrt(DRAWS)
    error = np.nanstd(gap, axis=0)
    upper = error > 0
    upper[: len(error) // 2] = False
    standard = (np.nanmedian(gap, axis=0) - gap)[:, upper] / error[upper]
    most = np.quantile(np.nan_to_num(standard).max(axis=1), level) if upper.any() else 0.0
    surely_below = (score - linear)[0] + most * error * np.sqrt(DRAWS)
    first = np.flatnonzero(np.concatenate([[True], np.diff(cell) > 0]))
    last = np.concatenate([first[1:], [len(cell)]]) - 1
    isotonic = optimize.isotonic_regression(score[0], weights=estimate[0, :, 0]).x
    edges = np.stack([samples.reward[first], samples.reward[last]], axis=1)
    return Calibration(
        edges, reward[0] + samples.reward.mean(), score[0], linear[0], isotonic, low, high, surely_below
    )


def _fit(sums: Floats) -> tuple[Floats, Floats, Floats]:
    """(R, B) mean reward, mean score and the line's prediction, from (R, B, 5) sums."""
    n, r, s, rr, rs = np.moveaxis(sums, -1, 0)
    total = n.sum(axis=1)
    mean_r, mean_s = r.sum(axis=1) / total, s.sum(axis=1) / total
    slope = (rs.sum(axis=1) / total - mean_r * mean_s) / (rr.sum(axis=1) / total - mean_r**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        reward, score = r / n, s / n
    return reward, score, mean_s[:, None] + slope[:, None] * (reward - mean_r[:, None])
