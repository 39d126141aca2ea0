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
        return -mid_ranks(batch.model_rewards).var(dim=0, unbiased=False)


def mid_ranks(values: Tensor) -> Tensor:
    """Rank along the last dimension from 0 for the lowest; equal values share the mean of their ranks; NaN is lowest.

    Args:
        values: (..., N).

    Returns:
        (..., N) float64.
    """
    values = torch.where(values.isnan(), -torch.inf, values).contiguous()
    ordered = values.sort(dim=-1).values
    below = torch.searchsorted(ordered, values)
    not_above = torch.searchsorted(ordered, values, right=True)
    return (below + not_above - 1).double() / 2
