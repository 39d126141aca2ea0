"""The filters that the bandit studies compare; a line in ``ARMS`` adds one.

Notation used for shapes: B problems, G contexts (prompts) in a rollout, N actions for each, k of them kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openrlhf_pf.filters import FilterBatch, SampleFilter, build_filter, draw


@dataclass(frozen=True)
class Arm:
    """A filter with its settings.

    Attributes:
        filter: a name that ``build_filter`` knows.
        keep: k for N samples; None for the filter's own default.
        options: the filter's further settings for N samples.
    """

    filter: str
    keep: Callable[[int], int | None] = lambda n: 2
    options: Callable[[int], dict] = lambda n: {}

    def build(self, n_samples: int) -> SampleFilter:
        """Return the filter."""
        return build_filter(self.filter, n_samples, self.keep(n_samples), **self.options(n_samples))

    def counts(self, chosen: SampleFilter, rewards: Tensor, generator: np.random.Generator) -> Tensor:
        """Return (B, G, N) how often each sample trains, divided by the number kept of its prompt."""
        batch = FilterBatch(rewards.reshape(-1, rewards.shape[-1]).numpy(), generator)
        kept = draw("select", chosen(batch), chosen.keep, chosen.scope, batch.order, generator)
        return torch.from_numpy(kept.counts / chosen.keep).float().view_as(rewards)


def ranks(*places: int) -> Callable[[int], dict]:
    """Return options of ``rank_weights`` that keep these ranks; 1 is the best, -1 the worst."""

    def options(n_samples: int) -> dict:
        at = {place - 1 if place > 0 else n_samples + place for place in places}
        return {"weights": [float(rank in at) for rank in range(n_samples)]}

    return options


#: Every arm of the studies.
ARMS: dict[str, Arm] = {
    "none": Arm("none", lambda n: n),
    "random": Arm("rank_weights", options=lambda n: {"weights": [1.0] * n}),
    "best_of_n": Arm("best_of_n"),
    "best_random": Arm("best_random"),
    "best_worst": Arm("best_worst"),
    "max_variance": Arm("max_variance", lambda n: n // 2),
    "ranks_2_and_last": Arm("rank_weights", options=ranks(2, -1)),
    "ranks_2_and_last_but_1": Arm("rank_weights", options=ranks(2, -2)),
}
