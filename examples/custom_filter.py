"""A sample filter of one's own: the shortest correct response of each reward quantile.

Check it, then train with it:

    python -m openrlhf_pf.filters.check examples/custom_filter.py:ShortestCorrect
    python -m openrlhf.cli.train_ppo --sample_filter examples/custom_filter.py:ShortestCorrect \\
        --sample_filter_keep 4 --sample_filter_options threshold=0.5 ...

To write another one, copy this file: an option is a parameter of ``__init__`` with a type, and ``weigh`` turns what
``FilterBatch`` knows of the samples into weights. Randomness comes from ``batch.generator``, which ``batch.order`` and
``batch.ranking`` use to break ties.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

import torch
from torch import Tensor

from openrlhf_pf.filters import FilterBatch, SampleFilter


class ShortestCorrect(SampleFilter):
    """Cuts the samples of a prompt into k quantiles by reward and keeps the shortest correct response of each.

    Keeping all quantiles keeps the spread of rewards that the policy learns from; length and correctness only decide
    within a quantile. A quantile without a correct response keeps its shortest one. When the reward function returns
    no scores, all responses count as correct.

    Args:
        threshold: a response is correct when its score is above this.
    """

    def __init__(self, n_samples: int, keep: int, threshold: float = 0.5) -> None:
        super().__init__(n_samples, keep)
        self.threshold = threshold

    @property
    def most_weighed(self) -> int:
        return self.keep

    def weigh(self, batch: FilterBatch) -> Tensor:
        rank = batch.order.argsort(dim=1)
        # Unusable samples rank last: divided by the number of usable ones, they fall beyond the last quantile.
        quantile = rank * self.keep // batch.n_usable.clamp(min=1).unsqueeze(1)
        lengths = batch.response_lengths.double()
        correct = batch.usable if batch.scores is None else batch.scores > self.threshold
        preferred = batch.ranking(correct * (lengths.max() + 1) - lengths)
        quantile = quantile.gather(1, preferred)
        weights = torch.zeros(quantile.shape, dtype=torch.float64)
        for q in range(self.keep):
            first = (quantile == q).int().argmax(dim=1, keepdim=True)
            weights.scatter_(1, preferred.gather(1, first), 1.0 / self.keep)
        return weights
