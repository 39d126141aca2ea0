"""OpenRLHF's reward-model trainer on weighted pairs (OCRM, arXiv 2507.15507).

The weight of a pair comes in the column that OpenRLHF reads margins from.
"""

from typing import Any

import torch
from openrlhf.trainer.rm_trainer import RewardModelTrainer
from torch import Tensor, nn
from torch.nn.functional import logsigmoid


class WeightedPairWiseLoss(nn.Module):
    """The mean of w -log sigmoid(chosen - rejected); in evaluation, where nothing is learnt, without the weights."""

    def forward(self, chosen: Tensor, rejected: Tensor, weight: Tensor) -> Tensor:
        """A scalar, of (pairs,) rewards and weights."""
        loss = -logsigmoid(chosen - rejected)
        return (loss * weight.to(loss.dtype)).mean() if torch.is_grad_enabled() else loss.mean()


class PolicyWeightedTrainer(RewardModelTrainer):
    """Weighs the loss of each pair; all else is as without."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.margin_loss, self.loss_fn = True, WeightedPairWiseLoss()


def install(entry: Any) -> None:
    """Put the trainer in the place of the one that OpenRLHF's entry module looks up."""
    entry.RewardModelTrainer = PolicyWeightedTrainer
