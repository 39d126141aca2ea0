"""Baselines over samples that do not train, which OpenRLHF never receives.

Shapes: G prompts (groups), N scored samples per prompt.
"""

import copy
from types import SimpleNamespace

from torch import Tensor


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
