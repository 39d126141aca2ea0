"""Filters that look at the length of responses (GFPO, arXiv 2508.09726).

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

from torch import Tensor

from openrlhf_pf.filters.base import FilterBatch, KeyFilter


class Shortest(KeyFilter):
    """``shortest``: the k shortest responses of a prompt, whatever their rewards (GFPO)."""

    def key(self, batch: FilterBatch) -> Tensor:
        return -batch.response_lengths.double()


class RewardPerToken(KeyFilter):
    """``reward_per_token``: the k responses with the most reward a token (GFPO: token efficiency).

    Meant for rewards that are not negative, as in the paper: of two equal negative rewards, the longer response has
    more reward a token.
    """

    def key(self, batch: FilterBatch) -> Tensor:
        return batch.rewards.double() / batch.response_lengths.clamp(min=1)
