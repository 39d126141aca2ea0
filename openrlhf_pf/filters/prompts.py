"""Prompts that are left out whole, whatever a sample filter would keep of them.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt.
"""

import torch
from torch import Tensor

from openrlhf_pf.filters.base import FilterBatch

#: Share of the variance that is kept, unless told (RAGEN-2's own default is not known to us).
VARIANCE_SHARE = 0.9


def variance_top_p(batch: FilterBatch, share: float = VARIANCE_SHARE) -> Tensor:
    """(G,) bool: the smallest set of prompts that holds ``share`` of the within-prompt reward variance of the rollout.

    As in RAGEN-2 (arXiv 2604.06268). A prompt whose rewards are all equal holds none and is never in it.
    """
    known = batch.usable
    deviation = torch.where(known, batch.rewards.double(), 0.0)
    mean = deviation.sum(dim=1, keepdim=True) / batch.n_usable.clamp(min=1).unsqueeze(1)
    variance = (torch.where(known, deviation - mean, 0.0).square().sum(dim=1)) / batch.n_usable.clamp(min=1)
    variance = torch.where(batch.flat_within(), 0.0, variance)
    ordered, order = variance.sort(descending=True)
    before = ordered.cumsum(dim=0) - ordered
    kept = (ordered > 0) & (before < share * ordered.sum() * (1 - 1e-12))
    return torch.zeros_like(kept).scatter_(0, order, kept)


def band(batch: FilterBatch, low: float, high: float) -> Tensor:
    """(G,) bool: the mean true score of a prompt's samples, or where there is none their mean reward, lies between
    ``low`` and ``high``, both included; a prompt without any is out.
    """
    values = batch.rewards.double() if batch.scores is None else batch.scores.double()
    known = batch.usable & values.isfinite()
    mean = torch.where(known, values, 0.0).sum(dim=1) / known.sum(dim=1)
    return (mean >= low) & (mean <= high)
