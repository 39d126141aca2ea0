"""Filters that compare several reward models.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, M reward
models.
"""

import torch
from torch import Tensor

from openrlhf_pf.filters.base import FilterBatch, KeyFilter


class EnsembleAgreement(KeyFilter):
    """``ensemble_agreement``: the k samples of a prompt whose rank the reward models agree on most.

    Agreement is the variance of a sample's rank over the models, smallest first. PF-PPO's point in other words: a
    reward can be relied on where an independently trained model would have ranked the sample the same. Ours.
    """

    def key(self, batch: FilterBatch) -> Tensor:
        total = torch.zeros(batch.rewards.shape, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for rewards in batch.model_rewards:
            ranks = mid_ranks(rewards)
            total += ranks
            squares += ranks.square_()
        # Four times M^2 times the variance: a whole number.
        return -(squares * len(batch.model_rewards) - total.square_()).mul_(4).round_()

    def weigh(self, batch: FilterBatch) -> Tensor:
        # Many keys are equal: a coin below 1 tells them apart at less cost than a second sort of nearly all prompts.
        coins = torch.rand(batch.rewards.shape, generator=batch.generator, dtype=torch.float64)
        return self.weights_of_best(batch, self.key(batch) + coins)


def mid_ranks(values: Tensor) -> Tensor:
    """Rank each row from 0 for the lowest; equal values share the mean of their ranks; NaN is lowest.

    Args:
        values: (G, N).

    Returns:
        (G, N) float64.
    """
    values = torch.where(values.isnan(), -torch.inf, values)
    ordered, order = values.sort(dim=1)
    ranks = torch.arange(values.shape[1], dtype=torch.float64).expand(values.shape)
    ranks = torch.empty(values.shape, dtype=torch.float64).scatter_(1, order, ranks)
    tied = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1).nonzero().squeeze(1)
    if len(tied):
        ordered, values = ordered[tied], values[tied]
        below, not_above = torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)
        ranks[tied] = (below + not_above - 1).double() / 2
    return ranks
