"""Criteria of a filter, computed from samples of a policy before it trains on them, and what compares them afterwards.

Notation used for tensor shapes: B worlds, P prompts of a probe, N actions each, F arms (filters).
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from openrlhf_pf.filters import make_generator
from openrlhf_pf.reliability import metrics, within
from openrlhf_pf.reliability.data import Checkpoint

from .arms import Arm
from .training import Luck, Policy, Trainer, by_logit, roll
from .worlds import pick

Floats = NDArray[np.float64]

#: What :func:`measure` computes: the report's figures, and two that look at gradients.
CRITERIA = {
    "binned_r2": "R², binned (the paper's)",
    "spearman": "Spearman, all samples",
    "within_r2": "R² within prompts",
    "within_spearman": "Spearman within prompts",
    "pairwise_accuracy": "pairwise accuracy",
    "mean_score": "mean score kept",
    "gain": "gain",
    "gain_kept": "gain, kept baseline",
    "signal_to_noise": "signal to noise (J)",
    "gain_root_k": "gain x root of k",
    "slope": "slope by gradients",
    "cosine": "cosine of gradients",
}


def measure(
    policy: Policy, luck: Luck, arms: Mapping[str, Arm], only: Collection[str] = tuple(CRITERIA)
) -> dict[str, Floats]:
    """Each criterion, (B, F), on all rollouts of ``luck``; at least those of ``only``.

    ``gain_root_k`` is the gain for a step as long as its noise: whitened advantages of k independent samples have
    noise 1 / sqrt(k). Where the kept rewards have mean 0 within prompts, it is ``signal_to_noise``.
    ``slope`` and ``cosine`` are those of a rollout's step with the exact gradient of the mean true value, mean over
    rollouts: the first knows how parameters are shared, the second also the step's noise, and not its length.
    """
    rollouts = [roll(policy, luck, step) for step in range(len(luck.contexts))]
    values = [pick(policy.worlds.value, r.contexts).gather(-1, r.actions) for r in rollouts]
    reward, value = (torch.cat(parts, 1).double() for parts in ([r.rewards for r in rollouts], values))
    found = of_samples(reward.numpy(), value.numpy(), arms, only)
    if {"slope", "cosine"} & set(only):
        found |= _by_gradients(policy, rollouts, values, arms)
    return found


def of_samples(
    reward: Floats, value: Floats, arms: Mapping[str, Arm], only: Collection[str] = tuple(CRITERIA)
) -> dict[str, Floats]:
    """The criteria that need no gradients, (B, F), of (B, P, N) rewards and true values; NaN counts as 0."""
    n_worlds, n_prompts, n_samples = reward.shape
    flat = [x.reshape(-1, n_samples) for x in (reward, value)]
    away = within.deviations_of(Checkpoint("probe", *flat, np.arange(len(flat[0]))))
    found: dict[str, list[Floats]] = {name: [] for name in CRITERIA}
    weights = [arm.build(n_samples)[0](torch.from_numpy(flat[0])).numpy() for arm in arms.values()]
    for arm, weight in zip(arms.values(), weights):
        sums = within.sums_of(weight, away).reshape(-1, n_worlds, n_prompts).sum(-1).T
        for name, numbers in within.metrics_of(sums, arm.keep(n_samples)).items():
            found[name].append(numbers)
        found["gain_root_k"].append(found["gain"][-1] * arm.keep(n_samples) ** 0.5)
        by_world = [x.reshape(n_worlds, -1) for x in (*flat, weight)]
        found["mean_score"].append((by_world[2] * by_world[1]).sum(1) / by_world[2].sum(1))
        for name, function in (("binned_r2", _signed_r2), ("spearman", _spearman)):
            if name in only:
                found[name].append(np.array([function(*columns) for columns in zip(*by_world)]))
    if "pairwise_accuracy" in only:
        pairs = metrics.pairwise_sums(*flat, weights).reshape(len(weights), 2, n_worlds, n_prompts).sum(-1)
        found["pairwise_accuracy"] = list(pairs[:, 0] / np.maximum(pairs[:, 1], 1e-12))
    return {name: np.nan_to_num(np.stack(numbers, axis=1)) for name, numbers in found.items() if numbers}


def _signed_r2(reward: Floats, score: Floats, weight: Floats) -> float:
    points = metrics.binned_points(reward, score, weight)
    return float(metrics.correlation_of_points(points[None])[0])


def _spearman(reward: Floats, score: Floats, weight: Floats) -> float:
    """Of the weighted samples: correlation of mid-ranks."""
    ranked = []
    for values in (reward, score):
        _, unit = np.unique(values, return_inverse=True)
        mass = np.bincount(unit, weight)
        ranked.append((mass.cumsum() - mass / 2)[unit])
    x, y = (ranks - np.average(ranks, weights=weight) for ranks in ranked)
    spread = np.average(x * x, weights=weight) * np.average(y * y, weights=weight)
    return float(np.average(x * y, weights=weight) / np.sqrt(spread)) if spread > 0 else 0.0


def _by_gradients(
    policy: Policy, rollouts: list, values: list[torch.Tensor], arms: Mapping[str, Arm]
) -> dict[str, Floats]:
    worlds, settings = policy.worlds, policy.settings
    chances = policy.everywhere()
    truth = chances * (worlds.value - (chances * worlds.value).sum(-1, keepdim=True))
    everywhere = torch.arange(truth.shape[1]).expand(len(truth), -1)
    target = policy.gradient(everywhere, truth).flatten(1)
    # A critic that has not been trained yet is taken as right.
    baseline = "group" if settings.baseline == "critic" else settings.baseline
    judge = Trainer(Policy(worlds, replace(settings, baseline=baseline)))
    generator = make_generator(0)
    found: dict[str, list[Floats]] = {"slope": [], "cosine": []}
    for arm in arms.values():
        filters = arm.build(rollouts[0].rewards.shape[-1], len(truth))
        slopes, cosines = [], []
        for step, (rollout, value) in enumerate(zip(rollouts, values)):
            counts = arm.counts(filters, rollout.rewards, value, step, generator)
            coefficient = counts * judge.advantages(rollout, counts)
            gradient = policy.gradient(rollout.contexts, by_logit(rollout.chances, rollout.actions, coefficient))
            slopes.append((gradient.flatten(1) * target).sum(1))
            cosines.append(slopes[-1] / (gradient.flatten(1).norm(dim=1) * target.norm(dim=1)).clamp(min=1e-12))
        found["slope"].append(torch.stack(slopes).mean(0).double().numpy())
        found["cosine"].append(torch.stack(cosines).mean(0).double().numpy())
    return {name: np.nan_to_num(np.stack(numbers, axis=1)) for name, numbers in found.items()}


# ── Comparing ──


def rank_correlation(criterion: Floats, result: Floats) -> Floats:
    """(B,) Spearman over arms of (B, F) with (B, F); 0 where one of them does not differ."""
    x, y = (stats.rankdata(a, axis=1) for a in (criterion, result))
    x, y = (a - a.mean(axis=1, keepdims=True) for a in (x, y))
    spread = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.divide((x * y).sum(1), spread, out=np.zeros(len(x)), where=spread > 0)


def regret(criterion: Floats, result: Floats) -> Floats:
    """(B,) result of the best arm less that of the one with the largest criterion, the first of several; (B, F)."""
    return result.max(1) - np.take_along_axis(result, criterion.argmax(1)[:, None], 1)[:, 0]


def mean_interval(values: Floats, seed: int = 0, repetitions: int = 2000) -> list[float]:
    """Mean of (B,) and its 95% interval, by resampling worlds or seeds: [mean, low, high], rounded to 4 places."""
    values = np.asarray(values, float)
    draws = np.random.default_rng(seed).integers(len(values), size=(repetitions, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return [round(float(x), 4) for x in (values.mean(), low, high)]


def show(interval: list[float], places: int = 3) -> str:
    """``.123 [.100, .146]`` with a sign."""
    mean, low, high = (f"{x:+.{places}f}" for x in interval)
    return f"{mean} [{low}, {high}]"
