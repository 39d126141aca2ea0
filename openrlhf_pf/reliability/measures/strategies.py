"""The strategies that the data allow, and how often each sample trains under them, in expectation.

Notation used for shapes: G groups (one prompt in one rollout), N samples a group at most.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.filters import (
    FILTERS,
    FilterBatch,
    KeyFilter,
    LearningFilter,
    NoFilter,
    RankFilter,
    SampleFilter,
    build_filter,
    filter_class,
    make_generator,
)
from openrlhf_pf.filters.batch_scope import TopRandom
from openrlhf_pf.filters.draw import chances
from openrlhf_pf.filters.group_scope import MaxVariance
from openrlhf_pf.registry import did_you_mean
from openrlhf_pf.reliability.read.checkpoints import Checkpoint

Floats = NDArray[np.float64]

#: Default thresholds: shares of the rewards below them.
LOW_QUANTILE, HIGH_QUANTILE = 0.25, 0.75
POWERS = (1.0, 2.0, 3.0)


@dataclass(frozen=True)
class Strategy:
    """A filter with its settings, as training takes them.

    Attributes:
        name: a key of ``FILTERS``.
        keep: k, samples a prompt that train.
        options: the filter's further settings.
    """

    name: str
    keep: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        return f"reward_power {self.options['power']:g}" if self.name == "reward_power" else self.name

    @property
    def keeps_one(self) -> bool:
        """Whether a single response per prompt trains, which leaves no pairs."""
        return self.keep == 1 and self.name != "none" and filter_class(self.name).scope == "group"

    def build(self, n_samples: int) -> SampleFilter:
        """Build the filter for N samples a group."""
        # A group of fewer than N samples is dropped when all N are to be kept; without a filter, it is not.
        keep = 1 if self.name == "none" else self.keep
        return build_filter(self.name, n_samples, keep, **self.options)


def strategies_for(
    checkpoint: Checkpoint,
    names: Sequence[str] = (),
    keep: int | None = None,
    low: float | None = None,
    high: float | None = None,
    powers: Sequence[float] = POWERS,
    weights: Sequence[float] | None = None,
) -> list[Strategy]:
    """List the strategies that the samples of a checkpoint allow, in the order of ``FILTERS``.

    Only ``names``, unless empty; see ``analysis.Settings`` for the others. Without weights, ``rank_weights`` keeps the
    second and the last rank, which suit a reward that is hacked at the top.

    Raises:
        ValueError: an unknown name, a strategy asked for by name that these samples do not allow, or settings that
            do not fit; the message is one sentence.
    """
    n_samples = checkpoint.reward.shape[1]
    if weights is None and n_samples >= 3 and keep in (None, 2):
        weights = [0.0, 1.0, *[0.0] * (n_samples - 3), 1.0]
    lacking = _lacking(checkpoint, weights)
    for name in names:
        if name not in FILTERS:
            hint = did_you_mean(name, FILTERS) or "choose one of these."
            raise ValueError(f"there is no strategy {name!r}, there are {', '.join(FILTERS)}: {hint}")
        if name in lacking:
            raise ValueError(f"strategy {name!r} cannot be analysed: {lacking[name]}.")
    known = checkpoint.reward[np.isfinite(checkpoint.reward)]
    quartiles = np.quantile(known, [LOW_QUANTILE, HIGH_QUANTILE]) if len(known) else (0.0, 0.0)
    same = low is None and high is None and quartiles[0] == quartiles[1]
    low, high = (float(q) if given is None else given for given, q in zip((low, high), quartiles))
    options: dict[str, list[dict[str, Any]]] = {
        "rank_weights": [{"weights": list(weights or ())}],
        "top": [{"high": high}],
        "top_random": [{"high": high}],
        "top_bottom": [] if same else [{"low": low, "high": high}],
        "reward_power": [{"power": power} for power in powers],
    }
    found = []
    for name, cls in FILTERS.items():
        if name in lacking or (names and name not in names):
            continue
        k = cls.default_keep(n_samples) if keep is None or cls is NoFilter else keep
        for chosen in options.get(name, [{}]):
            found.append(Strategy(name, k, chosen))
            found[-1].build(n_samples)
    return found


def _lacking(checkpoint: Checkpoint, weights: Sequence[float] | None) -> dict[str, str]:
    """Return the strategies that cannot be analysed, and why."""
    learning = [name for name, cls in FILTERS.items() if issubclass(cls, LearningFilter)]
    reasons = dict.fromkeys(learning, "its choice depends on the samples seen during training")
    if checkpoint.reward.shape[1] < 2:
        reasons |= {name: "every prompt has a single response" for name in FILTERS if name != "none"}
    if weights is None:
        reasons.setdefault("rank_weights", "no rank weights were given, give them with --weights")
    if checkpoint.length is None:
        by_length = ("shortest", "reward_per_token", "pareto")
        reasons |= dict.fromkeys(by_length, "the samples have no response lengths")
    if checkpoint.model_rewards is None:
        reasons.setdefault("ensemble_agreement", "the samples have no rewards of several models")
    return reasons


def expected_weights(strategies: Sequence[Strategy], checkpoint: Checkpoint) -> list[Floats]:
    """Return (G, N) per strategy: how often each sample trains, in expectation over ties and coins, up to a factor.

    Group scope: weights of a group sum to 1, or to 0 where it has fewer than k usable samples; but ``none`` trains
    every usable sample once, however many its group has. Batch scope: the chance to be drawn by ``select``, which
    takes no sample twice.
    """
    columns = {}
    if checkpoint.length is not None:
        columns["response_lengths"] = checkpoint.length
    if checkpoint.model_rewards is not None:
        columns["model_rewards"] = checkpoint.model_rewards
    batch = FilterBatch(checkpoint.reward, make_generator(0), **columns)
    n_samples = checkpoint.reward.shape[1]
    return [_weights(s.build(n_samples), batch) for s in strategies]


def _weights(sample_filter: SampleFilter, batch: FilterBatch) -> Floats:
    if isinstance(sample_filter, TopRandom):
        return np.where(batch.rewards > sample_filter.high, 1.0, 0.5) * batch.usable
    if isinstance(sample_filter, NoFilter):
        return batch.usable / sample_filter.n_samples
    if isinstance(sample_filter, MaxVariance):
        kept = sample_filter.expected(batch) * (batch.n_usable >= sample_filter.keep)[:, None]
        return average_ties(kept, batch.rewards)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report has a warning of its own on rewards beyond [-1, 1]
        weights = sample_filter(batch)
    if isinstance(sample_filter, RankFilter):
        return average_ties(weights, batch.rewards)
    if isinstance(sample_filter, KeyFilter):
        return average_ties(weights, np.where(batch.usable, sample_filter.key(batch), np.nan))
    if weights.max() == 0 or sample_filter.scope == "group":
        return weights
    return chances(weights.reshape(1, -1), sample_filter.keep * len(weights)).reshape(weights.shape)


def average_ties(weights: Floats, keys: Floats) -> Floats:
    """Spread weights (G, N) evenly over samples of equal keys (G, N) in a group: the expectation of random ties."""
    order = np.argsort(keys, axis=1, kind="stable")
    ranked = np.take_along_axis(keys, order, axis=1)
    new = np.ones(ranked.shape, dtype=bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    tied = ~new.all(axis=1)
    if not tied.any():
        return weights
    order, run = order[tied], new[tied].cumsum().reshape(-1, keys.shape[1]) - 1
    by_rank = np.take_along_axis(weights[tied], order, axis=1)
    means = np.bincount(run.ravel(), by_rank.ravel()) / np.bincount(run.ravel())
    spread, result = np.empty_like(by_rank), weights.copy()
    np.put_along_axis(spread, order, means[run], axis=1)
    result[tied] = spread
    return result
