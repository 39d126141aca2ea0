"""Users' filters that go through the built-in strategies, one a step, so that one run of the stack sees them all.

Their only state is how many rollouts they have weighed, which must survive a resume.
"""

import numpy as np

from openrlhf_pf.filters import FilterBatch, SampleFilter, build_filter

GROUP = [
    "best_of_n",
    "best_random",
    "best_worst",
    "rank_weights",
    "max_variance",
    "shortest",
    "reward_per_token",
    "ensemble_agreement",
    "pareto",
]
BATCH = ["top", "top_random", "top_bottom", "reward_power"]


def thresholds(rewards: np.ndarray) -> tuple[float, float]:
    """Thresholds that a rollout's own rewards lie on both sides of: their quartiles."""
    low, high = np.quantile(rewards[np.isfinite(rewards)], [0.25, 0.75]).tolist()
    return low, high


class Group(SampleFilter):
    def __init__(self, n_samples: int, keep: int, names: list[str] = GROUP):
        super().__init__(n_samples, keep)
        self.names = names
        self.weighed = 0

    def weigh(self, batch: FilterBatch) -> np.ndarray:
        name = self.names[self.weighed % len(self.names)]
        self.weighed += 1
        return build_filter(name, self.n_samples, self.keep, **self.options(name, batch))(batch)

    def options(self, name: str, batch: FilterBatch) -> dict:
        return {"weights": [0, 1, 1, 0]} if name == "rank_weights" else {}

    def state_dict(self) -> dict:
        return {"weighed": self.weighed}

    def load_state_dict(self, state: dict) -> None:
        self.weighed = state["weighed"]


class Batch(Group):
    scope = "batch"

    def __init__(self, n_samples: int, keep: int, names: list[str] = BATCH):
        super().__init__(n_samples, keep, names)

    def options(self, name: str, batch: FilterBatch) -> dict:
        low, high = thresholds(batch.rewards)
        given = {"top_bottom": {"low": low, "high": high}, "reward_power": {"power": 2.0}}
        return given.get(name, {"high": high})
