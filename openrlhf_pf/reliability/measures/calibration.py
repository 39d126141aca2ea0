"""Where the reward model is over-confident: higher rewards whose true scores are lower.

A calibrated reward model's mean score never falls from one group of similar reward to the next, whatever the shape of
the curve.

Notation used for shapes: B groups of equal count, R rows (the estimate and the repetitions of a bootstrap).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from openrlhf_pf.reliability.measures.bootstrap import DRAWS, Bootstrap
from openrlhf_pf.reliability.measures.evaluate import Samples, cut_cells
from openrlhf_pf.reliability.read.checkpoints import Checkpoint

Floats = NDArray[np.float64]


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
    """Compare the scores of at most B groups of reward; None where rewards or scores do not differ."""
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
