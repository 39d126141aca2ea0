"""A sample filter of your own: the shortest correct response of each reward quantile.

Check it, then train with it:

    openrlhf-pf check examples/filters/custom_filter.py:ShortestCorrect
    python -m openrlhf.cli.train_ppo --sample_filter examples/filters/custom_filter.py:ShortestCorrect \\
        --sample_filter_keep 4 --sample_filter_options threshold=0.5 ...

To write another one, copy this file: an option is a parameter of ``__init__`` with a type, and ``weigh`` turns the
numpy arrays of ``FilterBatch`` into weights. Randomness comes from ``batch.generator``, which ``batch.order`` and
``batch.ranking`` use to break ties.

Notation used for array shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

import numpy as np

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
    def max_kept_per_prompt(self) -> int:
        return self.keep

    def weigh(self, batch: FilterBatch) -> np.ndarray:
        rank = batch.order.argsort(axis=1)
        # Unusable samples rank last: divided by the number of usable ones, they come after the last quantile.
        quantile = rank * self.keep // batch.n_usable.clip(min=1)[:, None]
        lengths = batch.response_lengths
        correct = batch.usable if batch.scores is None else batch.scores > self.threshold
        preferred = batch.ranking(correct * (lengths.max() + 1.0) - lengths)
        quantile = np.take_along_axis(quantile, preferred, axis=1)
        weights = np.zeros(quantile.shape)
        for q in range(self.keep):
            first = (quantile == q).argmax(axis=1)[:, None]
            np.put_along_axis(weights, np.take_along_axis(preferred, first, axis=1), 1.0 / self.keep, axis=1)
        return weights
