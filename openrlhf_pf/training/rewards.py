"""The rewards that train: one of several reward models, or those minus a baseline over samples that do not train.

Shapes: M reward models (members), G prompts (groups), N scored samples per prompt.
"""

import copy
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openrlhf_pf.filters import FilterBatch
from openrlhf_pf.filters.batch import is_usable

Floats = NDArray[np.float64]
#: The least share of the variance between samples that counts as signal, however much members disagree.
_LEAST_SIGNAL = 0.05


# ── ``--sample_filter_reward``: one reward of several reward models, the main one first. On numpy ──


def combine_members(rule: str, rewards: Floats) -> Floats:
    """Return the (G, N) rewards that train, on the level of the main model and with its spread.

    Bradley-Terry training fixes a reward up to a constant per prompt, about which members disagree for no reason: each
    prompt's mean is taken out first.

    Args:
        rule: ``mean``, ``shrunk``, ``lower``, ``worst``, or ``member`` (each prompt was scored by one member).
        rewards: (M, G, N); a sample that a member has not scored has NaN, and is unusable except with ``member``.
    """
    if rule != "member":
        rewards = np.where(is_usable(rewards).all(axis=0), rewards, np.nan)
    levels, deviations = center_members(rewards)
    known = np.isfinite(deviations)
    squares = np.where(known, deviations, 0.0) ** 2
    spreads = np.sqrt(squares.sum(axis=(1, 2)) / known.sum(axis=(1, 2)).clip(min=1))[:, None, None]
    # Rewards that are all equal within prompts say nothing, and have no scale to bring to another's.
    factors = np.divide(spreads[0], spreads, out=np.zeros_like(spreads), where=spreads > 0)
    if rule == "member":
        return np.fmax.reduce(factors * (levels + deviations))  # the one that is not NaN
    return levels[0] + merge_members(rule, factors * deviations)


def center_members(rewards: Floats) -> tuple[Floats, Floats]:
    """Return (M, G, 1) the mean of each prompt, and (M, G, N) the rewards minus it, NaN where one is unusable."""
    rows = FilterBatch(rewards.reshape(-1, rewards.shape[2]))
    known = np.where(rows.usable, rows.rewards, 0.0)
    levels = known.sum(axis=1, keepdims=True) / rows.n_usable.clip(min=1)[:, None]
    deviations = np.where(rows.usable, (known - levels) * ~rows.flat[:, None], np.nan)
    return levels.reshape(*rewards.shape[:2], 1), deviations.reshape(rewards.shape)


def merge_members(rule: str, deviations: Floats) -> Floats:
    """Return (G, N) one deviation of the (M, G, N) ones, which have no level and the same spread."""
    batch = FilterBatch(deviations[0], model_rewards=deviations)
    if rule == "worst":
        return deviations.min(axis=0)
    if rule == "lower":
        return batch.lower_bound()
    return batch.ensemble_mean * (_shares_of_signal(batch) if rule == "shrunk" else 1.0)


def _shares_of_signal(batch: FilterBatch) -> Floats:
    """Return (G, N) signal / (signal + the members' variance), 1 where they agree.

    UARM (arXiv 2606.19818, eq. 20-22), with the members' variance in place of its interval.
    """
    known, variance = batch.usable, batch.ensemble_spread**2
    total = (batch.ensemble_mean[known] ** 2).sum() / max(known.sum(), 1)
    noise = variance[known].sum() / max(known.sum(), 1)
    signal = max(total - noise / len(batch.model_rewards), _LEAST_SIGNAL * total)
    return np.divide(signal, signal + variance, out=np.ones_like(variance), where=variance > 0)


def assign_members(rule: str, n_members: int, n_prompts: int, seed: int) -> NDArray[np.bool_]:
    """Return (M, G) which members score which prompts: all, or with ``member`` one each, at random by seed.

    Each is as likely, and all score as many, give or take one: the main model's spread is known in every rollout.
    """
    if rule != "member":
        return np.ones((n_members, n_prompts), dtype=bool)
    generator = np.random.default_rng(seed)
    chosen = (generator.permutation(n_prompts) + generator.integers(n_members)) % n_members
    return chosen == np.arange(n_members)[:, None]


# ── Baselines over samples that OpenRLHF never receives. On torch ──


def without_baseline(args: SimpleNamespace) -> SimpleNamespace:
    """Return ``args`` with which OpenRLHF takes rewards unchanged: no penalty, no baseline; whitened as before."""
    args = copy.copy(args)
    args.reward, args.algo = copy.copy(args.reward), copy.copy(args.algo)
    args.reward.overlong_buffer_len = args.reward.stop_properly_penalty_coef = None
    args.algo.advantage = copy.copy(args.algo.advantage)
    # In OpenRLHF, "reinforce" takes no baseline and whitens, and a name that it does not know does neither; how it
    # spreads rewards over tokens depends on the maker's own advantage_estimator, which stays.
    args.algo.advantage.estimator = (
        "reinforce" if args.algo.advantage.estimator == "reinforce_baseline" else "centered"
    )
    return args


def center_rewards(estimator: str, rewards: Tensor, share: Tensor, members: Tensor) -> Tensor:
    """Return an estimator's rewards minus a baseline from chosen samples of the prompt.

    With c = n / (n - 1), the mean m and the variance v = sum(share (R - m)^2) of a prompt's members:
    ``rloo`` c (R - m), which is R minus the mean of the other n - 1; ``reinforce_baseline`` and ``dr_grpo`` R - m;
    ``group_norm`` (R - m) / (sqrt(c v) + 1e-9). With equal shares of n members these equal OpenRLHF's own values.

    ``flash_reinforce`` R - m, where OpenRLHF's m is one number for the batch, so its samples are members of one group.
    With the mean over the kept samples their advantages always sum to 0: the best of every prompt train as if half of
    them were bad. With m over all usable samples, m estimates E[R] under the policy as it does without a filter, and
    the advantage of a sample does not depend on which others are kept.

    Args:
        estimator: a member of ``BASELINE_ESTIMATORS``.
        rewards: (G, N); entries without a share may hold anything.
        share: (G, N) the members' shares in the baseline: rows sum to 1, or to 0 if a prompt does not train.
        members: (G,) n, or infinity for the expectation over draws from the shares.

    Returns:
        (G, N) in the dtype of ``rewards``; meaningful where a sample has a usable reward.
    """
    share = share.to(rewards.dtype)
    known = rewards.nan_to_num(0.0, 0.0, 0.0)
    difference = rewards - (share * known).sum(dim=1, keepdim=True)
    correction = (1 + 1 / (members - 1).clamp(min=1e-9)).where(members > 1, 1.0).to(rewards.dtype).unsqueeze(1)
    if estimator == "rloo":
        return correction * difference
    if estimator == "group_norm":
        variance = (share * difference.nan_to_num(0.0, 0.0, 0.0).square()).sum(dim=1, keepdim=True)
        return difference / ((correction * variance).sqrt() + 1e-9)
    return difference
