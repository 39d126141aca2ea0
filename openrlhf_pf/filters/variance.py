"""Max-variance down-sampling (PODS, arXiv 2504.13818).

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

import torch
from torch import Tensor

from openrlhf_pf.filters.base import FilterBatch, SampleFilter


class MaxVariance(SampleFilter):
    """``max_variance``: the k samples of a prompt whose rewards have the largest variance.

    The best subset always is the i highest rewards and the k - i lowest, for some i (PODS, Section 3): all k + 1 of
    them are compared by prefix sums of the sorted rewards, O(N log N) a prompt. ``best_worst`` with k = 2 is its
    smallest case.
    """

    @property
    def most_weighed(self) -> int:
        return self.keep

    def weigh(self, batch: FilterBatch) -> Tensor:
        k = self.keep
        # Centred, because the variance of rewards far from 0 would drown in rounding.
        ranked = batch.rewards.double().gather(1, batch.order)
        known = torch.arange(self.n_samples) < batch.n_usable.unsqueeze(1)
        ranked = torch.where(known, ranked, 0.0)
        ranked = torch.where(
            known, ranked - ranked.sum(1, keepdim=True) / batch.n_usable.clamp(min=1).unsqueeze(1), 0.0
        )
        n_best = torch.arange(k + 1)
        first_of_worst = (batch.n_usable.unsqueeze(1) - k + n_best).clamp(min=0)  # (G, k + 1)

        def sum_of_chosen(values: Tensor) -> Tensor:
            sums = torch.nn.functional.pad(values.cumsum(1), (1, 0))  # sums[:, j]: the j best
            return sums[:, n_best] + sums[:, -1:] - sums.gather(1, first_of_worst)

        variance = sum_of_chosen(ranked.square()) / k - (sum_of_chosen(ranked) / k).square()
        best = variance.argmax(dim=1, keepdim=True)
        rank = torch.arange(self.n_samples)
        chosen = (rank < best) | (known & (rank >= batch.n_usable.unsqueeze(1) - k + best))
        return torch.zeros_like(ranked).scatter_(1, batch.order, chosen.double() / k)
