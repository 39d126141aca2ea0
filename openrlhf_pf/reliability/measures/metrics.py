"""Agreement of rewards and true scores for weighted samples: the paper's binned R² and its companions.

A filter's weight is how often a sample trains in expectation, so a metric of the weighted samples describes what the
filter keeps, without drawing. A sample of weight 2 counts like two samples of weight 1.

Notation used for shapes: S samples, B bins, R rows (the estimate and the repetitions of a bootstrap), M reward cells
in rising order.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Metric(NamedTuple):
    """A metric's title, the scale of its interval (see ``bootstrap.interval``), and its meaning."""

    title: str
    #: "r2", "correlation", "share", "positive" or "plain": the scale on which it is closest to normal.
    kind: str
    meaning: str


#: Every metric of the report by its name in report.json.
METRICS = {
    "gain": Metric(
        "gain",
        "plain",
        "estimated rise of the mean true score by one policy-gradient step on the kept responses, for a step of one"
        " whitened advantage; 0 if rewards say nothing within a prompt",
    ),
    "gain_kept": Metric(
        "gain, kept baseline", "plain", "gain with advantages relative to the mean of the prompt's kept responses"
    ),
    "signal_to_noise": Metric(
        "signal to noise", "plain", "gain of a step with one prompt's kept responses divided by the step's noise (J)"
    ),
    "within_r2": Metric(
        "R² within prompts",
        "r2",
        "share of the variance of scores within a prompt that the reward explains; negative if higher rewards go with"
        " lower scores",
    ),
    "within_spearman": Metric(
        "Spearman within prompts", "correlation", "rank correlation of reward and score within a prompt"
    ),
    "binned_r2": Metric(
        "R², binned",
        "r2",
        "R² of the PF-PPO paper: a straight line through the means of groups of similar reward; negative if the line"
        " falls. It includes differences between prompts and grows with the number of prompts",
    ),
    "pairwise_accuracy": Metric(
        "pairwise accuracy", "share", "share of pairs of one prompt whose better response has the higher reward"
    ),
    "auc": Metric("ROC-AUC", "share", "chance that a correct response has a higher reward than a wrong one"),
    "mean_score": Metric("mean score", "plain", "true score of the samples that train"),
    "mean_reward": Metric("mean reward", "plain", "reward of the samples that train"),
    "effective_samples": Metric("effective samples", "positive", "number of equally weighted samples of equal value"),
}


# ── For arrays of samples ──


def binned_points(reward: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None, bins: int = 20) -> Floats:
    """Return mean reward and mean score of groups of similar reward and equal weight (PF-PPO, Section 3).

    Samples of equal reward are one unit; one across the border of two groups counts in each for its part, so
    the order of the samples does not matter.

    Args:
        reward, score: (S,) finite.
        weight: (S,) not negative; None for 1 throughout.
        bins: B, the number of groups.

    Returns:
        (2, B) mean rewards and mean scores, in rising order of reward; NaN where there is no weight at all.
    """
    reward, score = np.asarray(reward, float), np.asarray(score, float)
    weight = np.ones_like(reward) if weight is None else np.asarray(weight, float)
    _, unit = np.unique(reward, return_inverse=True)
    sums = [np.bincount(unit, weight * values) for values in (1.0, reward, score)]
    return points_of_cells(np.stack(sums, axis=-1)[None], bins)[0]


def points_of_cells(cells: Floats, bins: int) -> Floats:
    """Return (R, 2, B) :func:`binned_points` from (R, M, 3) sums of weight, weight times reward and weight times score
    of each reward cell.
    """
    edges = np.concatenate([np.zeros((len(cells), 1, 3)), cells.cumsum(axis=1)], axis=1)
    total = edges[:, -1, 0]
    # One interpolation for all rows: each has a stretch of its own on the axis.
    row = 2.0 * np.arange(len(cells))[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        known = edges[..., 0] / total[:, None] + row
        at = np.linspace(0.0, 1.0, bins + 1) + row
        sums = [np.interp(at.ravel(), known.ravel(), edges[..., i].ravel()).reshape(at.shape) for i in (1, 2)]
        return np.diff(np.stack(sums, axis=1), axis=2) / (total / bins)[:, None, None]


def binned_r2(reward: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None, bins: int = 20) -> float:
    """Return R² of the straight line through :func:`binned_points` (PF-PPO, Section 3 and Table 1).

    The paper does not give the number of groups; 20 groups of equal count are our choice.

    Returns:
        1 - SS_res / SS_tot; NaN where all rewards or all group scores are equal.
    """
    return float(correlation_of_points(binned_points(reward, score, weight, bins)[None])[0] ** 2)


def correlation_of_points(points: Floats) -> Floats:
    """Return (R,) Pearson correlation of points (R, 2, B): signed, its square is R² of the line."""
    x, y = np.moveaxis(points - points.mean(axis=2, keepdims=True), 1, 0)
    spreads = np.stack([(x * x).sum(axis=1), (y * y).sum(axis=1)], axis=1)
    # NaN where a spread is only rounding error of numbers of that size.
    known = (spreads > (1e-9 * np.abs(points).max(axis=2)) ** 2).all(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, ((x * y).sum(axis=1) / np.sqrt(spreads.prod(axis=1))).clip(-1, 1), np.nan)


# ── From sums over samples and reward cells ──


def compute_means(sums: Floats) -> dict[str, Floats]:
    """Return mean score, mean reward and effective samples, (R,) each, from sums (R, 4) of w, w r, w s and w²."""
    w, wr, ws, ww = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"mean_score": ws / w, "mean_reward": wr / w, "effective_samples": w * w / ww}


def compute_auc(total: Floats, correct: Floats) -> Floats:
    """Return (R,) ROC-AUC from the weights of all and of the correct samples in each reward cell (R, M).

    Ties count half; NaN where all samples are correct or none is.
    """
    wrong = (total - correct).clip(min=0)
    wins = (correct * (wrong.cumsum(axis=1) - wrong / 2)).sum(axis=1)
    pairs = correct.sum(axis=1) * wrong.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, wins / pairs, np.nan)
