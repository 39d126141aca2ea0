"""Criteria of filters, computed from samples of a policy before it trains on them.

Notation used for shapes: B problems, P prompts of a probe, N actions each, F arms (filters).
"""

from collections.abc import Mapping

import numpy as np
import torch

from examples.studies.statistics import Floats
from openrlhf_pf.filters.gain import gain
from openrlhf_pf.reliability.measures import metrics
from openrlhf_pf.reliability.measures.pairs import count_pairs

from .arms import Arm
from .problems import pick
from .training import Luck, Policy, roll


def measure(policy: Policy, luck: Luck, arms: Mapping[str, Arm]) -> dict[str, Floats]:
    """Return each criterion, (B, F), on all rollouts of ``luck``."""
    rollouts = [roll(policy, luck, step) for step in range(len(luck.contexts))]
    values = [pick(policy.problems.value, r.contexts).gather(-1, r.actions) for r in rollouts]
    reward, value = (torch.cat(parts, 1).double() for parts in ([r.rewards for r in rollouts], values))
    return criteria_of(reward.numpy(), value.numpy(), arms)


def criteria_of(reward: Floats, value: Floats, arms: Mapping[str, Arm]) -> dict[str, Floats]:
    """Return the criteria, (B, F), of (B, P, N) rewards and true values; NaN becomes 0.

    ``gain_root_k`` is the gain times the root of k: for a step as long as its noise, since whitened advantages of k
    independent samples have noise 1 / sqrt(k).
    """
    n_problems, n_prompts, n_samples = reward.shape
    d, s = (x - x.mean(-1, keepdims=True) for x in (reward, value))
    flat = [x.reshape(-1, n_samples) for x in (reward, value)]
    found: dict[str, list[Floats]] = {}
    weights = []
    for arm in arms.values():
        keep = arm.keep(n_samples) or n_samples
        weights.append(np.asarray(arm.build(n_samples)(flat[0])))
        w = weights[-1].reshape(reward.shape)
        sums = [(w * x).sum((1, 2)) for x in (np.ones_like(d), d, s, d * d, d * s, s * s)]
        mass, wd, ws, wdd, wds, wss = sums
        slope = gain(np.stack(sums[:5], axis=-1))
        spread = np.sqrt((wdd / mass - (wd / mass) ** 2) * (wss / mass - (ws / mass) ** 2))
        points = [metrics.binned_points(*(x.ravel() for x in columns)) for columns in zip(reward, value, w)]
        for name, numbers in {
            "binned_r2": np.array([np.corrcoef(*each)[0, 1] for each in points]),
            "within_r2": (wds / mass - wd * ws / mass**2) / np.maximum(spread, 1e-300),
            "gain": slope,
            "signal_to_noise": wds / np.sqrt(np.maximum(wdd * mass / keep, 1e-300)),
            "gain_root_k": slope * keep**0.5,
        }.items():
            found.setdefault(name, []).append(numbers)
    pairs = count_pairs(*flat, weights).reshape(len(weights), 2, n_problems, n_prompts).sum(-1)
    found["pairwise_accuracy"] = list(pairs[:, 0] / np.maximum(pairs[:, 1], 1e-12))
    return {name: np.nan_to_num(np.stack(numbers, axis=1)) for name, numbers in found.items()}
