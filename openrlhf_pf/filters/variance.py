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
    smallest case. Where several of them are as good, as all are with k = 1, one is taken at random.
    """

    @property
    def most_weighed(self) -> int:
        return self.keep

    def weigh(self, batch: FilterBatch) -> Tensor:
        equal = self._equally_good(batch)
        best = equal.int().argmax(dim=1)
        tied = (equal.sum(dim=1) > 1).nonzero().squeeze(1)
        if len(tied):
            chance = torch.rand(len(tied), self.keep + 1, generator=batch.generator).masked_fill_(~equal[tied], -1.0)
            best[tied] = chance.argmax(dim=1)
        return self._taking(batch, best)

    def expected(self, batch: FilterBatch) -> Tensor:
        """(G, N) mean of :meth:`weigh` over the subsets that are as good."""
        equal = self._equally_good(batch).double()
        taken = [self._taking(batch, torch.full((len(equal),), i)) for i in range(self.keep + 1)]
        share = equal / equal.sum(dim=1, keepdim=True)
        return torch.stack([weights * share[:, i : i + 1] for i, weights in enumerate(taken)]).sum(dim=0)

    def _taking(self, batch: FilterBatch, n_best: Tensor) -> Tensor:
        """(G, N) weights of the ``n_best`` (G,) highest rewards and the lowest others."""
        rank, n_usable = torch.arange(self.n_samples), batch.n_usable.unsqueeze(1)
        n_best = n_best.unsqueeze(1)
        chosen = (rank < n_best) | ((rank < n_usable) & (rank >= n_usable - self.keep + n_best))
        weights = torch.zeros(chosen.shape, dtype=torch.float64)
        return weights.scatter_(1, batch.order, chosen.double() / self.keep)

    def _equally_good(self, batch: FilterBatch) -> Tensor:
        """(G, k + 1) bool: taking the i highest gives the largest variance, up to rounding."""
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
        size = ranked.square().amax(dim=1, keepdim=True)
        return variance >= variance.amax(dim=1, keepdim=True) - 1e-9 * size
