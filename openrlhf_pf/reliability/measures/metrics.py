"""Agreement of rewards and true scores for weighted samples: the paper's binned R² and its companions.

A filter's weight is how often a sample trains in expectation, so a metric of the weighted samples describes what the
filter keeps, without drawing. A sample of weight 2 counts like two samples of weight 1.

Notation used for shapes: S samples, B bins, R rows (the estimate and the repetitions of a bootstrap), M reward cells
in rising order, K score levels in rising order; G groups (one prompt in one rollout), N samples a group.

On numpy alone, so that training can import it.
"""

from collections.abc import Sequence
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
    "sample_r2": Metric(
        "R², samples",
        "r2",
        "share of the variance of single scores that the reward explains; negative if the line falls",
    ),
    "spearman": Metric("Spearman", "correlation", "rank correlation of reward and score over all samples"),
    "kendall": Metric("Kendall τ-b", "correlation", "share of pairs ranked the same minus share ranked the other way"),
    "pairwise_accuracy": Metric(
        "pairwise accuracy", "share", "share of pairs of one prompt whose better response has the higher reward"
    ),
    "auc": Metric("ROC-AUC", "share", "chance that a correct response has a higher reward than a wrong one"),
    "mse": Metric("MSE", "positive", "mean squared distance of the scores from the line; smaller is better"),
    "precision": Metric("precision", "share", "share of correct responses among those above the best threshold"),
    "recall": Metric("recall", "share", "share of the correct responses that are above the best threshold"),
    "f1": Metric("F1", "share", "harmonic mean of precision and recall at the threshold where it is largest"),
    "mean_score": Metric("mean score", "plain", "true score of the samples that train"),
    "mean_reward": Metric("mean reward", "plain", "reward of the samples that train"),
    "effective_samples": Metric("effective samples", "positive", "number of equally weighted samples of equal value"),
}


# ── From cells of similar reward ──


def points_of_cells(cells: Floats, bins: int) -> Floats:
    """Return (R, 2, B) mean rewards and mean scores of B groups of similar reward and equal weight, in rising order.

    ``cells`` (R, M, 3) are sums of weight, weight times reward and weight times score of each reward cell, at best one
    for each different reward. A cell across the border of two groups counts in each for its part, so the order of the
    samples does not matter. Groups are those of PF-PPO, Section 3, which does not give their number. NaN without any
    weight.
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


def correlation_of_points(points: Floats) -> Floats:
    """Return (R,) Pearson correlation of points (R, 2, B): signed, its square is R² of the line (PF-PPO, Section 3).

    NaN where all rewards or all group scores are equal.
    """
    x, y = np.moveaxis(points - points.mean(axis=2, keepdims=True), 1, 0)
    sizes = np.abs(points).max(axis=2).T
    return _correlation((x * y).sum(axis=1), (x * x).sum(axis=1), (y * y).sum(axis=1), *sizes)


# ── From sums over samples ──


def from_sums(sums: Floats, centre: tuple[float, float]) -> dict[str, Floats]:
    """Compute the metrics that need only sums, (R,) each; ``sample_r2`` as the signed correlation.

    Args:
        sums: (R, 7) sums of w, w r, w s, w r², w s², w r s and w² with rewards r and scores s taken from ``centre``,
            without which the variance of rewards far from 0 would drown in rounding.
        centre: what was subtracted from rewards and scores.
    """
    w, wr, ws, wrr, wss, wrs, ww = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_r, mean_s = wr / w, ws / w
        var_r, var_s = (wrr / w - mean_r**2).clip(min=0), (wss / w - mean_s**2).clip(min=0)
        effective = w * w / ww
        covariance = wrs / w - mean_r * mean_s
    r = _correlation(covariance, var_r, var_s, abs(mean_r) + abs(centre[0]), abs(mean_s) + abs(centre[1]))
    unexplained = 1 - np.nan_to_num(r) ** 2
    # What only rounding leaves has no logarithm to make an interval of.
    mse = np.where(unexplained > 1e-12, var_s * unexplained, 0.0)
    return {
        "sample_r2": r,
        "mse": mse,
        "mean_score": mean_s + centre[1],
        "mean_reward": mean_r + centre[0],
        "effective_samples": effective,
    }


# ── From tables of reward cells and score levels ──


def rank_correlations(table: Floats) -> dict[str, Floats]:
    """Compute ``spearman`` and ``kendall`` (tau-b), (R,) each, from weights (R, M, K) by reward and score;
    NaN where rewards or scores do not differ.
    """
    # (R, K, M): sums along the longer axis are several times as fast where it is the last.
    table = np.ascontiguousarray(table.swapaxes(1, 2))
    by_reward, by_score = table.sum(axis=1), table.sum(axis=2)
    total = by_reward.sum(axis=1)
    # Mid-ranks minus their mean.
    x = by_reward.cumsum(axis=1) - by_reward / 2 - total[:, None] / 2
    y = by_score.cumsum(axis=1) - by_score / 2 - total[:, None] / 2
    covariance = (np.matmul(table, x[:, :, None])[:, :, 0] * y).sum(axis=1)
    spread_r, spread_s = (by_reward * x * x).sum(axis=1), (by_score * y * y).sum(axis=1)
    both_lower = table[:, :-1, :-1].cumsum(axis=2).cumsum(axis=1)
    concordant = (table[:, 1:, 1:] * both_lower).sum(axis=(1, 2))
    tied_r, tied_s = (by_reward**2).sum(axis=1), (by_score**2).sum(axis=1)
    untied = (total**2 - tied_r - tied_s + (table**2).sum(axis=(1, 2))) / 2
    pairs_r, pairs_s = (total**2 - tied_r) / 2, (total**2 - tied_s) / 2
    return {
        "spearman": _correlation(covariance, spread_r, spread_s, total**1.5, total**1.5),
        "kendall": _correlation(2 * concordant - untied, pairs_r, pairs_s, 1e3 * total, 1e3 * total),
    }


def threshold_metrics(total: Floats, correct: Floats) -> dict[str, Floats]:
    """Compute ROC-AUC, and precision, recall and F1 at the threshold of the largest F1, (R,) each.

    Args:
        total: (R, M) weight of all samples in each reward cell.
        correct: (R, M) weight of the correct ones.

    Returns:
        ``auc`` (ties count half), ``precision``, ``recall``, ``f1``, and ``cell``, the lowest above the threshold; NaN
        where all samples are correct or none is (``auc``), or none is (the others).
    """
    wrong = (total - correct).clip(min=0)
    n_correct, n_wrong = correct.sum(axis=1), wrong.sum(axis=1)
    wins = (correct * (wrong.cumsum(axis=1) - wrong / 2)).sum(axis=1)
    hits = correct[:, ::-1].cumsum(axis=1)[:, ::-1]
    called = total[:, ::-1].cumsum(axis=1)[:, ::-1]
    f1 = 2 * hits / np.maximum(called + n_correct[:, None], np.finfo(float).tiny)
    cell = f1.argmax(axis=1)
    hits, called = (np.take_along_axis(a, cell[:, None], axis=1)[:, 0] for a in (hits, called))
    known = np.where(n_correct > 0, 1.0, np.nan)
    return {
        "auc": _ratio(wins, n_correct * n_wrong),
        "precision": _ratio(hits, called) * known,
        "recall": _ratio(hits, n_correct),
        "f1": f1.max(axis=1) * known,
        "cell": cell,
    }


def _ratio(above: Floats, below: Floats) -> Floats:
    """Return the quotient; NaN where the divisor is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below > 0, above / below, np.nan)


def _correlation(
    covariance: Floats, spread_x: Floats, spread_y: Floats, size_x: ArrayLike, size_y: ArrayLike
) -> Floats:
    """Return covariance / sqrt(both spreads); NaN where a spread is only rounding error of numbers of that size."""
    known = (spread_x > (1e-9 * np.asarray(size_x)) ** 2) & (spread_y > (1e-9 * np.asarray(size_y)) ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, (covariance / np.sqrt(spread_x * spread_y)).clip(-1, 1), np.nan)


# ── Pairs within prompts ──

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
    return _ratio(sums[:, 0], sums[:, 1])
