"""A user's filter that records what it knows of prompts, and keeps the best and the worst."""

import json
from pathlib import Path

import numpy as np

from openrlhf_pf.filters import FilterBatch, SampleFilter, build_filter


class Recording(SampleFilter):
    def __init__(self, n_samples: int, keep: int, file: str):
        super().__init__(n_samples, keep)
        self.file = Path(file)
        self.usual = build_filter("best_worst", n_samples, keep)

    def weigh(self, batch: FilterBatch) -> np.ndarray:
        entry = {
            "step": batch.step + 1,
            "prompts": batch.prompts,
            "datasources": batch.datasources,
            "posterior_mean": None if batch.posterior_mean is None else batch.posterior_mean.tolist(),
            "visits": None if batch.visits is None else batch.visits.tolist(),
        }
        with self.file.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        return self.usual(batch)
