"""How well rewards tell true scores: the paper's binned R² and its companions, all for weighted samples.

A filter's weight is how often a sample trains in expectation, so that a metric of the weighted samples describes what
the filter keeps, without drawing. A sample of weight 2 counts like two samples of weight 1.

Notation used for shapes: S samples, B bins, R repetitions (of a bootstrap; 1 for the estimate), M reward cells in
rising order, K score levels in rising order.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Samples whose pairs are looked at together: so many stay near the processor.
NEAR = 40_000


class Metric(NamedTuple):
    """What a metric is called and how its interval is computed (see ``bootstrap.interval``)."""

    title: str
    #: "r2", "correlation", "share", "positive" or "plain": the scale on which it is closest to normal.
    kind: str
    #: One sentence for readers who have not met it.
    meaning: str


#: Every metric of the report by its name in report.json.
METRICS = {
    "gain": Metric(
        "gain",
        "plain",
        "by how much the mean true score rises with the first step along the gradient of the kept samples, in units of"
        " true score for a step of one whitened advantage; 0 if the rewards say nothing within a prompt",
    ),
    "gain_kept": Metric(
        "gain, kept baseline",
        "plain",
        "gain where the advantage is taken from the mean of the prompt's kept responses",
    ),
    "signal_to_noise": Metric(
        "signal to noise",
        "plain",
        "what a step with the kept responses of one prompt moves the true score by, divided by the step's own"
        " noise (J)",
    ),
    "within_r2": Metric(
        "R² within prompts",
        "r2",
        "share of the variance of scores within a prompt that the reward explains; with a minus where the line falls",
    ),
    "within_spearman": Metric(
        "Spearman within prompts", "correlation", "do rewards and scores rank the responses of one prompt alike?"
    ),
    "binned_r2": Metric(
        "R², binned",
        "r2",
        "PF-PPO's R²: how well a straight line through the group means fits; 1 is perfect, a minus says that the line"
        " falls; it counts differences between prompts too, and grows with the number of prompts and with the spread"
        " of the kept rewards",
    ),
    "sample_r2": Metric(
        "R², samples",
        "r2",
        "share of the single scores' variance that the reward explains; a minus says that the line falls",
    ),
    "equal_spread_r2": Metric(
        "R², equal spread",
        "r2",
        "R² of the samples if their rewards were spread like all rewards; that undoes the effect of their range only "
        "where scores scatter as widely everywhere, which scores of 0 and 1 do not",
    ),
    "spearman": Metric("Spearman", "correlation", "do rewards and scores rank all samples alike? 1 yes, 0 at random"),
    "kendall": Metric(
        "Kendall τ-b", "correlation", "pairs ranked alike less pairs ranked the other way, without ties"
    ),
    "pairwise_accuracy": Metric(
        "pairwise accuracy", "share", "share of pairs of one prompt whose better response has the higher reward"
    ),
    "auc": Metric("ROC-AUC", "share", "chance that a correct response has a higher reward than a wrong one"),
    "mse": Metric("MSE", "positive", "mean squared distance of the scores from the line; smaller is better"),
    "precision": Metric("precision", "share", "share of correct ones among the responses above the best threshold"),
    "recall": Metric("recall", "share", "share of the correct responses that are above the best threshold"),
    "f1": Metric("F1", "share", "harmonic mean of the two, at the threshold where it is largest"),
    "mean_score": Metric("mean score", "plain", "true score of the samples that train"),
    "mean_reward": Metric("mean reward", "plain", "reward of the samples that train"),
    "effective_samples": Metric("effective samples", "positive", "how many equally weighted samples know as much"),
}


# ── For arrays of samples ──


def binned_points(reward: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None, bins: int = 20) -> Floats:
    """Mean reward and mean score of groups of similar reward and equal total weight (PF-PPO, Section 3).

    Samples of equal reward are one unit; what lies across the border of two groups counts in each for its part, so
    that nothing depends on the order of the samples.

    Args:
        reward: (S,) finite rewards.
        score: (S,) finite true scores.
        weight: (S,) weights, not negative; None for 1 throughout.
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
    """As :func:`binned_points`, from the sums of each reward cell.

    Args:
        cells: (R, M, 3) sums of weight, weight times reward and weight times score.
        bins: B.

    Returns:
        (R, 2, B).
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
    """R² of the straight line through :func:`binned_points` (PF-PPO, Section 3 and Table 1).

    The paper does not say how many groups there are nor how they are cut; 20 groups of equal count are ours.

    Args:
        reward: (S,) finite rewards.
        score: (S,) finite true scores.
        weight: (S,) weights, not negative; None for 1 throughout.
        bins: B, the number of groups.

    Returns:
        1 - SS_res / SS_tot; NaN where all rewards or all group scores are equal.
    """
    return float(correlation_of_points(binned_points(reward, score, weight, bins)[None])[0] ** 2)


def correlation_of_points(points: Floats) -> Floats:
    """(R,) Pearson correlation of points (R, 2, B); its square is R² of the line, its sign the line's direction."""
    x, y = np.moveaxis(points - points.mean(axis=2, keepdims=True), 1, 0)
    sizes = np.abs(points).max(axis=2).T
    return _correlation((x * y).sum(axis=1), (x * x).sum(axis=1), (y * y).sum(axis=1), *sizes)


# ── From sums over samples ──


def from_sums(sums: Floats, centre: tuple[float, float]) -> dict[str, Floats]:
    """Metrics that need only sums.

    Args:
        sums: (R, 7) sums of w, w r, w s, w r², w s², w r s and w² with rewards r and scores s taken from ``centre``,
            without which the variance of rewards far from 0 would drown in rounding.
        centre: what was subtracted from rewards and scores.

    Returns:
        (R,) each: ``sample_r2`` (as the signed correlation), ``mse``, ``mean_score``, ``mean_reward``,
        ``effective_samples`` (Kish: squared sum of the weights by the sum of their squares), and for
        :func:`equal_spread` ``slope`` and ``variance`` of the rewards.
    """
    w, wr, ws, wrr, wss, wrs, ww = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_r, mean_s = wr / w, ws / w
        var_r, var_s = (wrr / w - mean_r**2).clip(min=0), (wss / w - mean_s**2).clip(min=0)
        effective = w * w / ww
        covariance = wrs / w - mean_r * mean_s
    r = _correlation(covariance, var_r, var_s, abs(mean_r) + abs(centre[0]), abs(mean_s) + abs(centre[1]))
    mse = np.where(np.isnan(r), var_s, var_s * (1 - np.nan_to_num(r) ** 2))
    return {
        "sample_r2": r,
        "mse": mse,
        "mean_score": mean_s + centre[1],
        "mean_reward": mean_r + centre[0],
        "effective_samples": effective,
        "slope": r * np.sqrt(var_s / np.where(var_r > 0, var_r, np.nan)),
        "variance": var_r,
    }


def equal_spread(kept: dict[str, Floats], variance: Floats) -> Floats:
    """Correlation at the spread of all rewards: Thorndike's case 2 correction of range restriction.

    Slope and residual variance of the kept samples are taken as they are, the variance of the rewards as that of all
    samples, so that two strategies differ by how right the rewards are, not by how far apart they lie.

    Args:
        kept: what :func:`from_sums` returned for a strategy.
        variance: (R,) variance of all rewards.
    """
    explained = kept["slope"] * np.sqrt(variance)
    with np.errstate(invalid="ignore", divide="ignore"):
        return explained / np.sqrt(explained**2 + kept["mse"])


# ── From tables of reward cells and score levels ──


def rank_correlations(table: Floats) -> dict[str, Floats]:
    """Spearman's rho and Kendall's tau-b, ties included, of weighted samples.

    Args:
        table: (R, M, K) weight in each cell of reward and level of score.

    Returns:
        ``spearman`` and ``kendall``, (R,) each; NaN where rewards or scores do not differ.
    """
    # (R, K, M): sums along the longer axis are several times as fast where it is the last.
    table = np.ascontiguousarray(table.swapaxes(1, 2))
    by_reward, by_score = table.sum(axis=1), table.sum(axis=2)
    total = by_reward.sum(axis=1)
    # Mid-ranks, less their mean.
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
    """ROC-AUC, and precision, recall and F1 at the threshold of the largest F1.

    Args:
        total: (R, M) weight of all samples in each reward cell.
        correct: (R, M) weight of the correct ones.

    Returns:
        (R,) each: ``auc`` (ties count half), ``precision``, ``recall``, ``f1``, and ``cell``, the lowest cell above
        the threshold. NaN where all samples are correct or none is (``auc``), or none is (the others).
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


def pairwise_sums(rewards: Floats, scores: Floats, weights: list[Floats]) -> Floats:
    """Pairs of one prompt with different scores: how many, and how many have the higher reward on the better one.

    A pair counts with the product of its weights, its probability when two samples are drawn independently; equal
    rewards count half.

    Args:
        rewards: (G, N), NaN where there is none.
        scores: (G, N), likewise.
        weights: one (G, N) for each strategy.

    Returns:
        (strategies, 2, G): weight of the pairs that are right, and of all pairs.
    """
    n_prompts, n_samples = rewards.shape
    sums = np.zeros((len(weights), 2, n_prompts))
    step = max(NEAR // n_samples, 1)
    for start in range(0, n_prompts, step):
        rows = slice(start, start + step)
        reward, score = (np.ascontiguousarray(x[rows].T) for x in (rewards, scores))
        weight = np.stack([w[rows].T for w in weights])
        for i in range(1, n_samples):
            order = np.sign(score[i] - score[:i])
            agreement = np.sign(reward[i] - reward[:i]) * order
            known = (order != 0) & np.isfinite(agreement)
            right = np.where(known, (1 + agreement) / 2, 0.0)
            for which, pairs in enumerate((right, known.astype(float))):
                sums[:, which, rows] += weight[:, i] * np.einsum("kjg,jg->kg", weight[:, :i], pairs)
    return sums


def pairwise_accuracy(sums: Floats) -> Floats:
    """(R,) accuracy from (R, 2) weight of right pairs and of all pairs; NaN without pairs."""
    return _ratio(sums[:, 0], sums[:, 1])


def _ratio(above: Floats, below: Floats) -> Floats:
    """Divide; NaN where the divisor is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below > 0, above / below, np.nan)


def _correlation(
    covariance: Floats, spread_x: Floats, spread_y: Floats, size_x: ArrayLike, size_y: ArrayLike
) -> Floats:
    """Covariance by the root of both spreads; NaN where a spread is no more than rounding of numbers of that size."""
    known = (spread_x > (1e-9 * np.asarray(size_x)) ** 2) & (spread_y > (1e-9 * np.asarray(size_y)) ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, (covariance / np.sqrt(spread_x * spread_y)).clip(-1, 1), np.nan)
