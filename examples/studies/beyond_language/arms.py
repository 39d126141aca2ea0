"""The filters that the studies compare; a line in ``ARMS`` adds one.

Notation used for tensor shapes: B worlds, G contexts (prompts) in a rollout, N actions for each, k of them kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openrlhf_pf.filters import FilterBatch, build_filter, draw


@dataclass(frozen=True)
class Arm:
    """A filter with its settings.

    Attributes:
        filter: a name that ``build_filter`` knows.
        keep: k for N samples; None for the filter's own default.
        options: the filter's further settings for N samples.
        mode: how kept samples are drawn, as for ``--sample_filter_mode``.
        learns: the filter has a state, so that each world needs one of its own; it is shown the true values.
    """

    filter: str
    keep: Callable[[int], int | None] = lambda n: 2
    options: Callable[[int], dict] = lambda n: {}
    learns: bool = False
    mode: str = "select"

    def counts(
        self, filters: list, rewards: Tensor, values: Tensor, step: int, generator: np.random.Generator
    ) -> Tensor:
        """(B, G, N) how often each sample trains, with what scale, divided by how many of its prompt do."""
        _, n_prompts, n_samples = rewards.shape
        found = []
        for number, chosen in enumerate(filters):
            mine = slice(number, number + 1) if self.learns else slice(None)
            scores = values[mine].reshape(-1, n_samples).double()
            batch = FilterBatch(rewards[mine].reshape(-1, n_samples), generator, step, scores=scores)
            kept = draw(self.mode, chosen(batch), chosen.keep, chosen.scope, batch.order, generator)
            counts = kept.counts.reshape(-1, n_prompts, n_samples)
            if kept.scale is None:
                found.append(counts / chosen.keep)
            else:
                found.append(kept.scale.reshape(counts.shape) * counts / counts.sum(-1, keepdims=True))
        return torch.from_numpy(np.concatenate(found)).float()

    def build(self, n_samples: int, n_worlds: int = 1) -> list:
        """One filter, or one for each world where the filter learns."""
        return [
            build_filter(self.filter, n_samples, self.keep(n_samples), **self.options(n_samples))
            for _ in range(n_worlds if self.learns else 1)
        ]


def ranks(*places: int) -> Callable[[int], dict]:
    """Options of ``rank_weights`` that keep these ranks; 1 is the best, -1 the worst."""

    def options(n_samples: int) -> dict:
        at = {place - 1 if place > 0 else n_samples + place for place in places}
        return {"weights": [float(rank in at) for rank in range(n_samples)]}

    return options


#: Every arm of the studies; a line adds one.
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
