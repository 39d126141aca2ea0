"""Filters that compare the reward with thresholds, over the whole rollout batch (PF-PPO, Table 3).

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

import math

import torch
from torch import Tensor

from openrlhf_pf.filters.base import FilterBatch, SampleFilter


class Top(SampleFilter):
    """``top``: only samples whose reward is above a threshold (PPO-top in PF-PPO, Table 3).

    Args:
        high: the threshold t_hi, in units of the reward; samples with R > t_hi pass.
    """

    scope = "batch"

    def __init__(self, n_samples: int, keep: int, high: float) -> None:
        super().__init__(n_samples, keep)
        self.high = _finite("high", high)

    def weigh(self, batch: FilterBatch) -> Tensor:
        return (batch.rewards > self.high).double()


class TopRandom(Top):
    """``top_random``: samples above a threshold, and each other sample with probability 1/2 (PPO-top-rand, Table 3).

    The coins of the other samples are tossed once a rollout, from the batch's generator.

    Args:
        high: the threshold t_hi, in units of the reward; samples with R > t_hi pass.
    """

    def weigh(self, batch: FilterBatch) -> Tensor:
        heads = torch.rand(batch.rewards.shape, generator=batch.generator) < 0.5
        return ((batch.rewards > self.high) | heads).double()


class TopBottom(Top):
    """``top_bottom``: samples above one threshold or below another (PPO-top-bott in PF-PPO, Table 3).

    Args:
        low: the threshold t_lo; samples with R < t_lo pass.
        high: the threshold t_hi, above t_lo; samples with R > t_hi pass.
    """

    def __init__(self, n_samples: int, keep: int, low: float, high: float) -> None:
        super().__init__(n_samples, keep, high)
        self.low = _finite("low", low)
        if low >= high:
            raise ValueError(f"low must be below high, got low {low} and high {high}: give them in that order.")

    def weigh(self, batch: FilterBatch) -> Tensor:
        return ((batch.rewards > self.high) | (batch.rewards < self.low)).double()


def _finite(name: str, threshold: float) -> float:
    if not math.isfinite(threshold):
        raise ValueError(f"{name} must be a finite reward, got {threshold}: give a threshold among the rewards.")
    return threshold
