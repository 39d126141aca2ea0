"""Filters that weigh a sample by its rank among the samples of its prompt (PF-PPO, Section 3 and Table 1).

Notation used for array shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters.base import SampleFilter
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
