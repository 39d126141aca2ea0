"""Filters within a prompt: by the rank of its samples (PF-PPO, Section 3 and Table 1), variance, length, or several
reward models.

Notation used for array shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, M reward
models.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters.base import KeyFilter, SampleFilter
from openrlhf_pf.filters.batch import FilterBatch, put_in_columns


class RankFilter(SampleFilter):
    """Weights that depend on ranks only; a subclass returns them in :meth:`rank_weights`."""

    @cached_property
    def _table(self) -> ndarray:
        """(N + 1, N): row n holds the weights of a prompt with n usable samples, for all prompts at once."""
        table = np.zeros((self.n_samples + 1, self.n_samples))
        for n_usable in range(self.keep, self.n_samples + 1):
            table[n_usable, :n_usable] = self.rank_weights(n_usable)
        return table

    @property
    def max_kept_per_prompt(self) -> int:
        return int((self.rank_weights(self.n_samples) > 0).sum())

    @abstractmethod
    def rank_weights(self, n_usable: int) -> ndarray:
        """Return the weights (n_usable,) of the ranks, best first, with sum 1."""

    def weigh(self, batch: FilterBatch) -> ndarray:
        return put_in_columns(batch.order, self._table[batch.n_usable])


class NoFilter(RankFilter):
    """``none``: every sample has the same weight (PPO-M in the paper)."""

    @classmethod
    def default_keep(cls, n_samples: int) -> int:
        return n_samples

    def rank_weights(self, n_usable: int) -> ndarray:
        return np.full(n_usable, 1.0 / n_usable)


class BestOfN(RankFilter):
    """``best_of_n``: the k best samples (BoN; w = (1, 0, ..., 0) in the paper)."""

    @classmethod
    def default_keep(cls, n_samples: int) -> int:
        return 1

    def rank_weights(self, n_usable: int) -> ndarray:
        return np.where(np.arange(n_usable) < self.keep, 1.0 / self.keep, 0.0)


class BestRandom(RankFilter):
    """``best_random``: the ceil(k/2) best, and random ones of the rest.

    BR in the paper, w = (1/2, 1/(2(N-1)), ..., 1/(2(N-1))): the case k = 2.
    """

    def rank_weights(self, n_usable: int) -> ndarray:
        n_best = (self.keep + 1) // 2
        weights = np.full(n_usable, 1.0 / self.keep)
        if n_usable > n_best:
            weights[n_best:] = (1.0 - n_best / self.keep) / (n_usable - n_best)
        return weights


class BestWorst(RankFilter):
    """``best_worst``: the ceil(k/2) best and the floor(k/2) worst (BW; w = (1/2, 0, ..., 0, 1/2) in the paper)."""

    def rank_weights(self, n_usable: int) -> ndarray:
        weights = np.zeros(n_usable)
        weights[: (self.keep + 1) // 2] = 1.0 / self.keep
        weights[n_usable - self.keep // 2 :] = 1.0 / self.keep
        return weights


class RankWeights(RankFilter):
    """``rank_weights``: any rank weight vector w (PF-PPO, Section 3).

    A prompt with n < N usable samples takes n entries of w, evenly spaced, so that its best sample keeps w_1 and its
    worst w_N.

    Args:
        weights: N numbers, best rank first, not negative, with a positive sum; they are scaled to sum 1.
    """

    def __init__(self, n_samples: int, keep: int, weights: Sequence[float]) -> None:
        super().__init__(n_samples, keep)
        values = np.array(list(weights), dtype=np.float64)
        if len(values) != n_samples:
            raise ValueError(
                f"rank_weights needs one weight for each of the {n_samples} samples of a prompt, got {len(values)}."
            )
        if not np.isfinite(values).all() or (values < 0).any() or not 0 < values.max() < 1e100:
            raise ValueError(
                f"rank weights must be finite, below 1e100, not negative and not all 0, got {list(weights)}: give the "
                "probability of each rank, best first."
            )
        self.weights = values / values.sum()

    def rank_weights(self, n_usable: int) -> ndarray:
        chosen = self.weights[spread_ranks(n_usable, self.n_samples)]
        return chosen / chosen.sum() if chosen.sum() > 0 else chosen


def spread_ranks(n_usable: int, n_samples: int) -> ndarray:
    """Return (n_usable,) int64: which of N ranks n usable samples stand for; evenly spaced, both ends included."""
    return np.linspace(0, n_samples - 1, n_usable).round().astype(np.int64)


# ── The k samples of a prompt that are best together, or by another key ──


class MaxVariance(SampleFilter):
    """``max_variance``: the k samples of a prompt whose rewards have the largest variance (PODS, arXiv 2504.13818).

    The best subset always is the i highest rewards and the k - i lowest, for some i (PODS, Section 3): all k + 1 of
    them are compared by prefix sums of the sorted rewards, O(N log N) a prompt. ``best_worst`` with k = 2 is its
    smallest case. Where several are equally good, as all are with k = 1, one is taken at random.
    """

    @property
    def max_kept_per_prompt(self) -> int:
        return self.keep

    def weigh(self, batch: FilterBatch) -> ndarray:
        equal = self._equally_good(batch)
        best = equal.argmax(axis=1)
        tied = np.flatnonzero(equal.sum(axis=1) > 1)
        if len(tied):
            coins = batch.generator.random((len(tied), self.keep + 1), dtype=np.float32)
            best[tied] = np.where(equal[tied], coins, -1.0).argmax(axis=1)
        return self._weights_of(batch, best)

    def expected(self, batch: FilterBatch) -> ndarray:
        """Return the (G, N) mean of :meth:`weigh` over the equally good subsets."""
        equal = self._equally_good(batch)
        share = equal / equal.sum(axis=1, keepdims=True)
        subsets = [self._weights_of(batch, np.full(len(equal), i)) for i in range(self.keep + 1)]
        return sum(weights * share[:, i : i + 1] for i, weights in enumerate(subsets))

    def _weights_of(self, batch: FilterBatch, n_best: ndarray) -> ndarray:
        """(G, N) weights of the ``n_best`` (G,) highest rewards and the lowest others."""
        rank, n_usable, n_best = np.arange(self.n_samples), batch.n_usable[:, None], n_best[:, None]
        chosen = (rank < n_best) | ((rank < n_usable) & (rank >= n_usable - self.keep + n_best))
        return put_in_columns(batch.order, chosen / self.keep)

    def _equally_good(self, batch: FilterBatch) -> ndarray:
        """(G, k + 1) bool: taking the i highest gives the largest variance, up to rounding."""
        k, n_usable = self.keep, batch.n_usable[:, None]
        # Centred, because the variance of rewards far from 0 would drown in rounding.
        known = np.arange(self.n_samples) < n_usable
        ranked = np.where(known, np.take_along_axis(batch.rewards.astype(np.float64), batch.order, axis=1), 0.0)
        ranked = np.where(known, ranked - ranked.sum(axis=1, keepdims=True) / n_usable.clip(min=1), 0.0)
        n_best = np.arange(k + 1)
        first_of_worst = (n_usable - k + n_best).clip(min=0)  # (G, k + 1)

        def sum_of_chosen(values: ndarray) -> ndarray:
            sums = np.pad(values.cumsum(axis=1), ((0, 0), (1, 0)))  # sums[:, j]: the j best
            return sums[:, n_best] + sums[:, -1:] - np.take_along_axis(sums, first_of_worst, axis=1)

        variance = sum_of_chosen(ranked**2) / k - (sum_of_chosen(ranked) / k) ** 2
        return variance >= variance.max(axis=1, keepdims=True) - 1e-9 * (ranked**2).max(axis=1, keepdims=True)


class Shortest(KeyFilter):
    """``shortest``: the k shortest responses of a prompt, whatever their rewards (GFPO, arXiv 2508.09726)."""

    def key(self, batch: FilterBatch) -> ndarray:
        return -batch.response_lengths.astype(np.float64)


class RewardPerToken(KeyFilter):
    """``reward_per_token``: the k responses with the highest reward per token (GFPO: token efficiency).

    Meant for rewards that are not negative, as in the paper: of two equal negative rewards, the longer response has
    the higher reward per token.
    """

    def key(self, batch: FilterBatch) -> ndarray:
        return batch.rewards.astype(np.float64) / batch.response_lengths.clip(min=1)


class EnsembleAgreement(KeyFilter):
    """``ensemble_agreement``: the k samples of a prompt whose rank the reward models agree on most.

    Agreement is the variance of a sample's rank over the models, smallest first. As in PF-PPO, it keeps the rewards
    that can be relied on: those that an independently trained model would rank the same. Ours.
    """

    def key(self, batch: FilterBatch) -> ndarray:
        ranks = np.stack([mid_ranks(rewards) for rewards in batch.model_rewards])
        # Four times M^2 times the variance: a whole number.
        return -np.rint(4 * (len(ranks) * (ranks**2).sum(axis=0) - ranks.sum(axis=0) ** 2))

    def weigh(self, batch: FilterBatch) -> ndarray:
        # Many keys are equal: a coin below 1 orders them faster than a second sort of nearly all prompts.
        return self.weights_of_best(batch, self.key(batch) + batch.generator.random(batch.rewards.shape))


def mid_ranks(values: ndarray) -> ndarray:
    """Return the rank of each entry of a row (G, N), 0 for the lowest; ties share the mean rank; NaN is lowest."""
    values = np.where(np.isnan(values), -np.inf, values)
    order = np.argsort(values, axis=1)
    ordered, place = np.take_along_axis(values, order, axis=1), np.arange(values.shape[1])
    new = np.pad(ordered[:, 1:] != ordered[:, :-1], ((0, 0), (1, 1)), constant_values=True)
    first = np.maximum.accumulate(np.where(new[:, :-1], place, 0), axis=1)
    last = np.minimum.accumulate(np.where(new[:, 1:], place, values.shape[1])[:, ::-1], axis=1)[:, ::-1]
    return put_in_columns(order, (first + last) / 2)
