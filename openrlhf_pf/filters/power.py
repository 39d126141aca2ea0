"""A filter that weighs a sample by the size of its reward, over the whole rollout batch (PF-PPO, Table 3).

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

import math
import warnings

import torch
from torch import Tensor

from openrlhf_pf.filters.base import FilterBatch, SampleFilter


class RewardPower(SampleFilter):
    """``reward_power``: samples of the whole batch in proportion to ``|R| ** power`` (PPO-pow-1, -2, -3 in Table 3).

    Meant for a reward model whose range is [-1, 1], as in the paper: the sign says good or bad, and a reward near 0
    says nothing. Rewards outside that range are weighed by the same rule, with one warning, because a 0 that is not
    in the middle of the rewards weighs all samples of one side too high.

    Args:
        power: the exponent, above 0.
    """

    scope = "batch"

    def __init__(self, n_samples: int, keep: int, power: float) -> None:
        super().__init__(n_samples, keep)
        if not (math.isfinite(power) and power > 0):
            raise ValueError(f"power must be a finite number above 0, got {power}: the paper uses 1, 2 and 3.")
        self.power = power
        self._warned = False

    def weigh(self, batch: FilterBatch) -> Tensor:
        size = torch.where(batch.usable, batch.rewards.abs(), 0.0).double()
        largest = size.max()
        if largest > 1 and not self._warned:
            self._warned = True
            warnings.warn(
                f"reward_power is meant for rewards in [-1, 1] with 0 between good and bad, got a reward of size "
                f"{float(largest):g}: scale and shift the reward model, or choose a filter by rank.",
                stacklevel=2,
            )
        # Divided first, so that no power overflows; a common factor does not change weights.
        return (size / largest.clamp(min=torch.finfo(torch.float64).tiny)) ** self.power
