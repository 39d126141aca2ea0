"""Intervals and comparisons that the studies share.

Notation used for shapes: B problems, runs or seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mean_interval(values: Floats, seed: int = 0, repetitions: int = 2000) -> list[float]:
    """Return the mean of (B,) values and its 95% bootstrap interval, [mean, low, high] rounded to 4 places."""
    values = np.asarray(values, float)
    draws = np.random.default_rng(seed).integers(len(values), size=(repetitions, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return [round(float(x), 4) for x in (values.mean(), low, high)]


def paired_interval(
    differences: Floats, groups: Sequence[Any] | None = None, draws: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean of (runs, tasks) differences; NaN entries do not count.

    Args:
        differences: (runs, tasks). Runs and tasks are resampled.
        groups: (runs,) what runs share, such as a policy and a reward model. Groups are resampled, and runs within
            them, so that many runs of few groups do not count as many groups.
        draws: bootstrap resamples.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    n_runs, n_tasks = differences.shape
    members = [np.arange(n_runs)]
    if groups is not None and len(set(groups)) > 1:
        members = [np.array([i for i, g in enumerate(groups) if g == one]) for one in dict.fromkeys(groups)]
    means = np.empty(draws)
    for i in range(draws):
        taken = [members[g] for g in rng.integers(0, len(members), len(members))]
        rows = np.concatenate([rng.choice(rows, len(rows)) for rows in taken])
        means[i] = np.nanmean(differences[rows][:, rng.integers(0, n_tasks, n_tasks)])
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
