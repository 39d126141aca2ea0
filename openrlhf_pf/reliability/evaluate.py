"""Every metric of every strategy on the samples of one policy, each with its bootstrap repetitions.

Notation used for shapes: S samples with reward and score, in rising order of reward; G groups, N samples a group;
R repetitions; B bins; M reward cells; K score levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.reliability import metrics, within
from openrlhf_pf.reliability.bootstrap import Bootstrap, interval
from openrlhf_pf.reliability.data import Checkpoint
from openrlhf_pf.reliability.metrics import METRICS
from openrlhf_pf.reliability.strategies import Strategy, expected_weights

Floats = NDArray[np.float64]

#: Reward cells of a repetition: fine beside the bins, so that cutting bins within cells changes next to nothing.
CELLS = 400
#: Cells of the table of rewards and scores that rank correlations need: of a repetition, and of the estimate.
TABLE_CELLS, ESTIMATE_CELLS = 1200, 2**22
#: Metrics of all samples together, which need them in order of reward.
WHOLE = METRICS.keys() - {"pairwise_accuracy", *within.METRICS_WITHIN}
#: Score levels and reward cells at most, where there are more different values.
LEVELS, ESTIMATE_LEVELS, ESTIMATE_REWARDS = 20, 2048, 4096


@dataclass
class Result:
    """One strategy on one checkpoint.

    Attributes:
        strategy: which.
        estimates: metric to value; ``binned_r2`` and ``sample_r2`` as signed correlations, whose squares they are.
        draws: metric to (R,) values of the repetitions, likewise.
        points: (2, B) the binned points of the estimate.
        cells: (M, 3) sums of weight, weight times reward and weight times score, from which other points can be made.
        kept: expected number of samples that train.
        threshold: the reward above which F1 is largest.
        twin: label of an earlier strategy that weighs all samples the same, or "".
        units: metric to how many prompts know as much as those that say anything about it; see ``bootstrap.interval``.
    """

    strategy: Strategy
    estimates: dict[str, float] = field(default_factory=dict)
    draws: dict[str, Floats] = field(default_factory=dict)
    points: Floats | None = None
    cells: Floats | None = None
    kept: float = 0.0
    threshold: float = np.nan
    twin: str = ""
    units: dict[str, float] = field(default_factory=dict)


@dataclass
class Samples:
    """The samples of a checkpoint that metrics can use, in rising order of reward.

    Attributes:
        take: (S,) their places in the flattened (G, N) table.
        reward, score: (S,).
        correct: (S,) bool: the score is above the threshold.
        block: (S,) their prompts' bootstrap blocks.
        unit: (S,) number of each different reward, from 0.
        level: (S,) number of each different score, from 0.
    """

    take: NDArray[np.int64]
    reward: Floats
    score: Floats
    correct: NDArray[np.bool_]
    block: NDArray[np.int64]
    unit: NDArray[np.int64]
    level: NDArray[np.int64]

    @classmethod
    def of(cls, checkpoint: Checkpoint, bootstrap: Bootstrap, threshold: float) -> "Samples":
        """Take the samples with reward and score."""
        take = np.flatnonzero(checkpoint.known)
        take = take[np.argsort(checkpoint.reward.ravel()[take], kind="stable")]
        reward, score = checkpoint.reward.ravel()[take], checkpoint.score.ravel()[take]
        block = bootstrap.block[checkpoint.prompt][take // checkpoint.reward.shape[1]]
        unit = np.concatenate([[0], (np.diff(reward) > 0).cumsum()])
        level = np.unique(score, return_inverse=True)[1]
        return cls(take, reward, score, score > threshold, block, unit, level)

    def weighing(self, weight: Floats) -> "tuple[Samples, Floats]":
        """Those of weight above 0, and their weights."""
        some = weight > 0
        if some.all():
            return self, weight
        return Samples(*(getattr(self, name)[some] for name in self.__dataclass_fields__)), weight[some]


def evaluate(
    checkpoint: Checkpoint,
    strategies: Sequence[Strategy],
    bootstrap: Bootstrap,
    bins: int = 20,
    threshold: float = 0.5,
    only: Sequence[str] = (),
) -> list[Result]:
    """Compute every metric of every strategy.

    Args:
        checkpoint: the samples.
        strategies: what to weigh them by.
        bootstrap: the repetitions, for this checkpoint's prompts.
        bins: B.
        threshold: a score above it is correct.
        only: the metrics wanted; empty for all.
    """
    samples = Samples.of(checkpoint, bootstrap, threshold)
    results: list[Result] = []
    weights = expected_weights(strategies, checkpoint)
    for number, (strategy, table) in enumerate(zip(strategies, weights)):
        twins = (r for r, other in zip(results, weights[:number]) if _proportional(table, other))
        twin = next(twins, None)
        if twin is not None:
            own = {"estimates": dict(twin.estimates), "draws": dict(twin.draws), "units": {}}
            kept = _kept(strategy, table, checkpoint)
            results.append(replace(twin, strategy=strategy, kept=kept, twin=twin.twin or twin.strategy.label, **own))
            continue
        result = Result(strategy, kept=_kept(strategy, table, checkpoint))
        wanted = not only or set(only) & WHOLE
        if wanted and samples.take.size and (weight := table.ravel()[samples.take]).any():
            _fill(result, *samples.weighing(weight), bootstrap, bins, only)
        results.append(result)
    if not only or "equal_spread_r2" in only:
        _fill_equal_spread(results, samples, bootstrap)
    if not only or "pairwise_accuracy" in only:
        _fill_pairwise(results, checkpoint, weights, bootstrap)
    if not only or set(only) & set(within.METRICS_WITHIN):
        _fill_within(results, checkpoint, weights, bootstrap)
    return results


def _proportional(weights: Floats, others: Floats) -> bool:
    # What keeps nothing would be proportional to anything.
    return bool(weights.any() and others.any()) and bool(
        np.allclose(weights * others.sum(), others * weights.sum(), rtol=1e-9, atol=0)
    )


def _kept(strategy: Strategy, weights: Floats, checkpoint: Checkpoint) -> float:
    """Expected number of samples that train."""
    if strategy.name == "none":
        return float((weights > 0).sum())
    if strategy.build(weights.shape[1]).scope == "group":
        return float(strategy.keep * (weights.sum(axis=1) > 0).sum())
    # Not scaled, a weight below 1 is a chance of being there at all only for coins.
    there = weights.sum() if strategy.name == "top_random" else (weights > 0).sum()
    return float(min(strategy.keep * len(weights), there))


def _fill(
    result: Result, samples: Samples, weight: Floats, bootstrap: Bootstrap, bins: int, only: Sequence[str]
) -> None:
    """All metrics but the pairwise accuracy."""

    def put(prefix: dict[str, Floats], target: dict) -> None:
        for name, values in prefix.items():
            if name in (*METRICS, "slope", "variance") and (not only or name in only):
                target[name] = float(values[0]) if target is result.estimates else values

    reward, score = samples.reward, samples.score
    total = weight.sum()
    centre = (float(weight @ reward / total), float(weight @ score / total))
    r, s = reward - centre[0], score - centre[1]
    weighed = [weight, weight * r, weight * s]
    if tuple(only) != ("binned_r2",):
        columns = [*weighed, weighed[1] * r, weighed[2] * s, weighed[1] * s, weight * weight]
        put(metrics.from_sums(np.array([[c.sum() for c in columns]]), centre), result.estimates)
        put(metrics.from_sums(bootstrap.sums(samples.block, columns)[:, 0], centre), result.draws)
    correct = weight * samples.correct
    # All different rewards for the estimate, cells of about equal weight for the repetitions.
    exact = np.stack([np.bincount(samples.unit, column) for column in (*weighed, correct)], axis=-1)
    exact = exact[exact[:, 0] > 0]
    result.points = metrics.points_of_cells(exact[None, :, :3], bins)[0] + np.array([centre]).T
    cell, n_cells = cells(samples.unit, weight, max(CELLS, 20 * bins))
    repeated = bootstrap.sums(samples.block, [*weighed, correct], cell, n_cells)
    if len(exact) >= 3 and len(weight) >= 2 * bins:
        put({"binned_r2": metrics.correlation_of_points(result.points[None])}, result.estimates)
        put(
            {"binned_r2": metrics.correlation_of_points(metrics.points_of_cells(repeated[..., :3], bins))},
            result.draws,
        )
    result.cells = np.stack([np.bincount(cell, column) for column in weighed], axis=-1)
    if tuple(only) == ("binned_r2",):
        return
    best = metrics.threshold_metrics(exact[None, :, 0], exact[None, :, 3])
    result.threshold = float(np.unique(reward)[best["cell"][0]])
    put(best, result.estimates)
    put(metrics.threshold_metrics(repeated[..., 0], repeated[..., 3]), result.draws)
    put(_rank_correlations(samples, weight, None), result.estimates)
    put(_rank_correlations(samples, weight, bootstrap), result.draws)


def _rank_correlations(samples: Samples, weight: Floats, bootstrap: Bootstrap | None) -> dict[str, Floats]:
    most_levels, most = (LEVELS, TABLE_CELLS) if bootstrap else (ESTIMATE_LEVELS, ESTIMATE_CELLS)
    order = np.argsort(samples.level, kind="stable")
    level = np.empty_like(samples.level)
    level[order], n_levels = cells(samples.level[order], weight[order], most_levels)
    cell, n_cells = cells(samples.unit, weight, min(ESTIMATE_REWARDS, most // n_levels))
    place, size = cell * n_levels + level, n_cells * n_levels
    if bootstrap is None:
        table = np.bincount(place, weight, minlength=size)
    else:
        table = bootstrap.sums(samples.block, [weight], place, size)
    return metrics.rank_correlations(table.reshape(-1, n_cells, n_levels))


def cells(unit: NDArray[np.int64], weight: Floats, most: int) -> tuple[NDArray[np.int64], int]:
    """Cut sorted samples into cells of about equal weight; samples of equal value share one.

    Args:
        unit: (S,) number of each different value, rising.
        weight: (S,) weights above 0.
        most: number of cells at most; one for each value where there are no more values than that.

    Returns:
        (S,) the cell of each sample, and the number of cells.
    """
    first = np.concatenate([[True], unit[1:] != unit[:-1]])
    dense = first.cumsum() - 1
    if dense[-1] >= most:
        sums = np.bincount(dense, weight)
        middle = (sums.cumsum() - sums / 2) / sums.sum()
        dense = np.unique((middle * most).astype(np.int64), return_inverse=True)[1][dense]
    return dense, int(dense[-1]) + 1


def _fill_equal_spread(results: list[Result], samples: Samples, bootstrap: Bootstrap) -> None:
    if not samples.take.size:
        return
    r = samples.reward - samples.reward.mean()
    sums = bootstrap.sums(samples.block, [np.ones_like(r), r, r * r])[:, 0]
    of_all = {"estimates": np.array([r.var()]), "draws": sums[:, 2] / sums[:, 0] - (sums[:, 1] / sums[:, 0]) ** 2}
    for result in results:
        if "slope" in result.estimates:
            kept = {name: np.array([value]) for name, value in result.estimates.items()}
            result.estimates["equal_spread_r2"] = float(metrics.equal_spread(kept, of_all["estimates"])[0])
            result.draws["equal_spread_r2"] = metrics.equal_spread(result.draws, of_all["draws"])


def _fill_pairwise(results: list[Result], checkpoint: Checkpoint, weights: list[Floats], bootstrap: Bootstrap) -> None:
    known = checkpoint.known
    reward, score = np.where(known, checkpoint.reward, np.nan), np.where(known, checkpoint.score, np.nan)
    sums = metrics.pairwise_sums(reward, score, weights)
    block = bootstrap.block[checkpoint.prompt]
    for result, pairs in zip(results, sums):
        if result.strategy.alone or not pairs[1].any():  # what trains alone is in no pair
            continue
        result.estimates["pairwise_accuracy"] = float(metrics.pairwise_accuracy(pairs.sum(axis=1)[None])[0])
        result.draws["pairwise_accuracy"] = metrics.pairwise_accuracy(bootstrap.sums(block, list(pairs))[:, 0])
        result.units["pairwise_accuracy"] = within.effective(np.bincount(block, pairs[1], bootstrap.n_blocks))


def _fill_within(results: list[Result], checkpoint: Checkpoint, weights: list[Floats], bootstrap: Bootstrap) -> None:
    away = within.deviations_of(checkpoint)
    block = bootstrap.block[checkpoint.prompt]
    for result, weight in zip(results, weights):
        sums = within.sums_of(weight, away)
        if not sums[0].any():
            continue
        keep = max(result.kept / len(checkpoint.reward), np.finfo(float).tiny)
        estimates = within.metrics_of(sums.sum(axis=1)[None], keep)
        draws = within.metrics_of(bootstrap.sums(block, list(sums))[:, 0], keep)
        result.units |= within.units_of(sums, block, bootstrap.n_blocks)
        for name in within.METRICS_WITHIN:
            result.estimates[name], result.draws[name] = float(estimates[name][0]), draws[name]


def summary(result: Result, bootstrap: Bootstrap, level: float) -> dict[str, dict[str, float | None]]:
    """Metric to ``{"estimate", "low", "high"}``; None where it is not defined. R² below 0: the line falls."""
    found = {}
    for name, metric in METRICS.items():
        estimate = result.estimates.get(name, np.nan)
        low, high = np.nan, np.nan
        if name in result.draws:
            units = result.units.get(name)
            low, high = interval(estimate, result.draws[name], metric.kind, bootstrap.n_blocks, level, units)
        estimate = estimate * abs(estimate) if metric.kind == "r2" else estimate
        values = {"estimate": estimate, "low": low, "high": high}
        found[name] = {key: float(value) if np.isfinite(value) else None for key, value in values.items()}
    return found
