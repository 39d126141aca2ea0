"""A user's filter that writes down what it sees of prompts, beside keeping the best and the worst."""

import json
from pathlib import Path

import numpy as np

from openrlhf_pf.filters import FilterBatch, SampleFilter, build_filter


class Seeing(SampleFilter):
    def __init__(self, n_samples: int, keep: int, file: str):
        super().__init__(n_samples, keep)
        self.file = Path(file)
        self.usual = build_filter("best_worst", n_samples, keep)

    def weigh(self, batch: FilterBatch) -> np.ndarray:
        seen = {
            "step": batch.step + 1,
            "prompts": batch.prompts,
            "datasources": batch.datasources,
            "posterior_mean": None if batch.posterior_mean is None else batch.posterior_mean.tolist(),
            "visits": None if batch.visits is None else batch.visits.tolist(),
        }
        with self.file.open("a") as file:
            file.write(json.dumps(seen) + "\n")
        return self.usual(batch)
