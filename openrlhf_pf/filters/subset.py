"""Filters that keep one subset of k samples of each prompt: by variance, by length, or by several reward models.

Notation used for array shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, M reward
models.
"""

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters.base import KeyFilter, SampleFilter
from openrlhf_pf.filters.batch import FilterBatch, put_in_columns


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
