"""Every metric of every strategy on the samples of one policy, each with its bootstrap repetitions.

All numbers come from tables of sums per block of prompts: one row of the table's resample is the estimate, the others
are the repetitions.

Notation used for shapes: S samples with reward and score, in rising order of reward; G groups, N samples a group;
R repetitions; B bins; M reward cells; K score levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.reliability.measures import metrics, within
from openrlhf_pf.reliability.measures.bootstrap import Bootstrap, as_values, effective_units, interval
from openrlhf_pf.reliability.measures.metrics import METRICS, count_pairs, pair_accuracy
from openrlhf_pf.reliability.measures.strategies import Strategy, expected_weights
from openrlhf_pf.reliability.read.checkpoints import Checkpoint

Floats = NDArray[np.float64]

#: Reward cells of a repetition: far more than bins, so that cutting bins within cells changes next to nothing.
CELLS = 400
#: Cells of the table of rewards and scores that rank correlations need: of a repetition, and of the estimate.
TABLE_CELLS, ESTIMATE_CELLS = 1200, 2**22
#: Score levels and reward cells at most, where there are more different values.
LEVELS, ESTIMATE_LEVELS, ESTIMATE_REWARDS = 20, 2048, 4096


@dataclass
class Result:
    """One strategy on one checkpoint.

    Attributes:
        strategy: which.
        estimates: metric to value; ``binned_r2`` and ``sample_r2`` as signed correlations, whose squares they are.
        draws: metric to (R,) values of the repetitions, in the same form.
        points: (2, B) the binned points of the estimate.
        kept: expected number of samples that train.
        threshold: the reward above which F1 is largest.
        twin: label of an earlier strategy that gives all samples the same weight, or "".
        units: metric to the number of equal prompts that carry as much information; see ``bootstrap.interval``.
    """

    strategy: Strategy
    estimates: dict[str, float] = field(default_factory=dict)
    draws: dict[str, Floats] = field(default_factory=dict)
    points: Floats | None = None
    kept: float = 0.0
    threshold: float = np.nan
    twin: str = ""
    units: dict[str, float] = field(default_factory=dict)

    def put(self, found: Mapping[str, Floats], repeated: Mapping[str, Floats] | None = None) -> None:
        """Store metrics (1 + R,), the estimate first; or estimates (1,) with ``repeated`` (1 + R,) for the rest."""
        for name in METRICS.keys() & found.keys():
            self.estimates[name] = float(found[name][0])
            self.draws[name] = (found if repeated is None else repeated)[name][1:]


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

    def select(self, some: NDArray[np.bool_]) -> "Samples":
        """Return some (S,) of them."""
        return Samples(*(getattr(self, name)[some] for name in self.__dataclass_fields__))


def evaluate(
    checkpoint: Checkpoint,
    strategies: Sequence[Strategy],
    bootstrap: Bootstrap,
    bins: int = 20,
    threshold: float = 0.5,
    whole: bool = True,
) -> list[Result]:
    """Compute every metric of every strategy: over at most B groups, a score above the threshold being correct.

    With ``whole``, the metrics over all samples too, not only those within prompts.
    """
    samples = Samples.of(checkpoint, bootstrap, threshold)
    weights = expected_weights(strategies, checkpoint)
    away, block = within.deviations_of(checkpoint), bootstrap.block[checkpoint.prompt]
    results: list[Result] = []
    pairs = count_pairs(checkpoint.reward, checkpoint.score, weights)
    for number, (strategy, weight) in enumerate(zip(strategies, weights)):
        twin = next((r for r, other in zip(results, weights[:number]) if _are_proportional(weight, other)), None)
        result = Result(strategy, kept=count_kept(strategy, weight, checkpoint))
        if twin is not None:
            result.twin = twin.twin or twin.strategy.label
        chosen = weight.ravel()[samples.take]
        if whole and chosen.any():
            _fill_whole(result, samples.select(chosen > 0), chosen[chosen > 0], bootstrap, bins)
        sums = within.sum_within(weight, away)
        if sums[0].any():
            keep = max(result.kept / max(len(checkpoint.reward), 1), np.finfo(float).tiny)
            result.put(within.compute_within(bootstrap.sum_up(block, list(sums)), keep))
            result.units |= within.units_of(sums, block, bootstrap.n_blocks)
        if not strategy.keeps_one and pairs[number][1].any():  # a single response is in no pair
            result.put({"pairwise_accuracy": pair_accuracy(bootstrap.sum_up(block, list(pairs[number])))})
            per_block = np.bincount(block, pairs[number][1], bootstrap.n_blocks)
            result.units["pairwise_accuracy"] = effective_units(per_block)
        results.append(result)
    return results


def _are_proportional(weights: Floats, others: Floats) -> bool:
    # Weights of 0 throughout would be proportional to anything.
    return bool(weights.any() and others.any()) and bool(
        np.allclose(weights * others.sum(), others * weights.sum(), rtol=1e-9, atol=0)
    )


def count_kept(strategy: Strategy, weights: Floats, checkpoint: Checkpoint) -> float:
    """Return the expected number of samples that train."""
    if strategy.name == "none":
        return float((weights > 0).sum())
    if strategy.build(weights.shape[1]).scope == "group":
        return float(strategy.keep * (weights.sum(axis=1) > 0).sum())
    # Only the weights of top_random are chances of being kept at all.
    there = weights.sum() if strategy.name == "top_random" else (weights > 0).sum()
    return float(min(strategy.keep * len(weights), there))


def _fill_whole(result: Result, samples: Samples, weight: Floats, bootstrap: Bootstrap, bins: int) -> None:
    """Compute the metrics over all samples of weight above 0."""
    total = weight.sum()
    centre = (float(weight @ samples.reward / total), float(weight @ samples.score / total))
    r, s = samples.reward - centre[0], samples.score - centre[1]
    weighed = [weight, weight * r, weight * s]
    moments = [*weighed, weighed[1] * r, weighed[2] * s, weighed[1] * s, weight * weight]
    result.put(metrics.from_sums(bootstrap.sum_up(samples.block, moments), centre))
    # The estimate has a cell for each different reward, the repetitions have cells of about equal weight.
    columns = [*weighed, weight * samples.correct]
    exact = np.stack([np.bincount(samples.unit, column) for column in columns], axis=-1)
    there = exact[:, 0] > 0
    exact = exact[there][None]
    cell, n_cells = cut_cells(samples.unit, weight, max(CELLS, 20 * bins))
    repeated = bootstrap.resample(bootstrap.table(samples.block, columns, cell, n_cells))
    points = metrics.points_of_cells(exact[..., :3], bins)
    result.points = points[0] + np.array([centre]).T
    if exact.shape[1] >= 3 and len(weight) >= 2 * bins:
        r2 = metrics.correlation_of_points(metrics.points_of_cells(repeated[..., :3], bins))
        result.put({"binned_r2": metrics.correlation_of_points(result.points[None])}, {"binned_r2": r2})
    best = metrics.threshold_metrics(exact[..., 0], exact[..., 3])
    result.threshold = float(np.unique(samples.reward)[best["cell"][0]])
    result.put(best, metrics.threshold_metrics(repeated[..., 0], repeated[..., 3]))
    result.put(_rank_correlations(samples, weight, None), _rank_correlations(samples, weight, bootstrap))


def _rank_correlations(samples: Samples, weight: Floats, bootstrap: Bootstrap | None) -> dict[str, Floats]:
    """Return them from a coarse table for the repetitions, or from a fine one for the estimate (no bootstrap)."""
    most_levels, most = (LEVELS, TABLE_CELLS) if bootstrap else (ESTIMATE_LEVELS, ESTIMATE_CELLS)
    order = np.argsort(samples.level, kind="stable")
    level = np.empty_like(samples.level)
    level[order], n_levels = cut_cells(samples.level[order], weight[order], most_levels)
    cell, n_cells = cut_cells(samples.unit, weight, min(ESTIMATE_REWARDS, most // n_levels))
    place, size = cell * n_levels + level, n_cells * n_levels
    if bootstrap is None:
        table = np.bincount(place, weight, minlength=size)
    else:
        table = bootstrap.resample(bootstrap.table(samples.block, [weight], place, size))
    return metrics.rank_correlations(table.reshape(-1, n_cells, n_levels))


def cut_cells(unit: NDArray[np.int64], weight: Floats, most: int) -> tuple[NDArray[np.int64], int]:
    """Return (S,) the cell of each sample and the number of cells, of about equal weight and ``most`` at most.

    ``unit`` (S,) is the rising number of each different value, which has one cell; ``weight`` (S,) is above 0.
    """
    first = np.concatenate([[True], unit[1:] != unit[:-1]])
    dense = first.cumsum() - 1
    if dense[-1] >= most:
        sums = np.bincount(dense, weight)
        middle = (sums.cumsum() - sums / 2) / sums.sum()
        dense = np.unique((middle * most).astype(np.int64), return_inverse=True)[1][dense]
    return dense, int(dense[-1]) + 1


def summarize(result: Result, bootstrap: Bootstrap, level: float) -> dict[str, dict[str, float | None]]:
    """Return metric to ``{estimate, low, high}``; None where it is not defined. R² below 0: the line falls."""
    return {name: summarize_metric(result, name, bootstrap, level) for name in METRICS}


def summarize_metric(result: Result, name: str, bootstrap: Bootstrap, level: float) -> dict[str, float | None]:
    """Return ``{estimate, low, high}`` of one metric."""
    kind, estimate, ends = METRICS[name].kind, result.estimates.get(name, np.nan), (np.nan, np.nan)
    if name in result.draws:
        ends = interval(estimate, result.draws[name], kind, bootstrap.n_blocks, level, result.units.get(name))
    return as_values(estimate * abs(estimate) if kind == "r2" else estimate, *ends)
