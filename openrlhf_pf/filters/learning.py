"""What filters that learn from true scores share: which samples count, and how sure a lead over rollouts is.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt.
"""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from openrlhf_pf.filters.base import FilterBatch, SampleFilter


class LearningFilter(SampleFilter):
    """A filter that learns from true scores while it trains, of the samples that train or of a probe.

    It cannot be judged on recorded samples, for what it does depends on what it has seen. If its constructor has an
    option ``mode``, training gives it the draw (a member of ``DRAWS``) that turns its weights into samples.
    """

    @abstractmethod
    def observe(self, batch: FilterBatch) -> None:
        """Learn from a rollout, whether it trains or not."""


def known_samples(batch: FilterBatch) -> Tensor | None:
    """(G, N) bool: reward and true score are finite; None where there is no such sample."""
    if batch.scores is None:
        return None
    known = batch.usable & batch.scores.isfinite()
    return known if known.any() else None


def deviations(values: Tensor, known: Tensor) -> Tensor:
    """(G, N) float64: values less their prompt's mean over the ``known`` ones, which alone have a meaning."""
    filled = torch.where(known, values.double(), 0.0)
    return filled - filled.sum(dim=1, keepdim=True) / known.sum(dim=1, keepdim=True).clamp(min=1)


def decayed(moments: list[Tensor], half_life: float) -> Tensor:
    """(rollouts, ...) the moments of each rollout, oldest first, with the weight that their age leaves them."""
    stacked = torch.stack(moments)
    age = torch.arange(len(stacked) - 1, -1, -1, dtype=torch.float64)
    return stacked * (0.5 ** (age / half_life)).reshape(-1, *[1] * (stacked.dim() - 1))


def lead(moments: Tensor, gap: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """A difference of strategies, and its standard error by a jackknife over rollouts.

    Args:
        moments: (rollouts, ...) sums over each rollout.
        gap: what to make of sums (..., moments): the differences, of which what is common to all cancels.
    """
    n, total = len(moments), moments.sum(dim=0)
    without_one = gap(total - moments)
    error = ((n - 1) / n * (without_one - without_one.mean(dim=0)).square().sum(dim=0)).sqrt()
    return gap(total), error


def check_positive(**settings: float) -> None:
    """Raise ValueError for a setting that is not above 0."""
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}: leave it out for the default.")
