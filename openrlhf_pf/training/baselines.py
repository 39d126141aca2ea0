"""Baselines over other samples than those that train, which are all that OpenRLHF sees.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt.
"""

from torch import Tensor


def centred(estimator: str, rewards: Tensor, share: Tensor, members: Tensor) -> Tensor:
    """What an estimator makes of rewards, with a baseline from chosen samples of the prompt.

    With c = n / (n - 1), the mean m and the variance v = sum(share (R - m)^2) of a prompt's members:
    ``rloo`` c (R - m), which is R less the mean of the other n - 1; ``reinforce_baseline`` and ``dr_grpo`` R - m;
    ``group_norm`` (R - m) / (sqrt(c v) + 1e-9). With equal shares of n members these are OpenRLHF's own figures.

    ``flash_reinforce`` R - m, where OpenRLHF's m is one number for the batch: its samples are members of one group.
    A filter bends that m. With the mean over the kept samples, their advantages sum to 0 whatever the filter: the
    best of every prompt train as if half of them were bad, and a filter that keeps equal rewards trains nothing. With
    m over all usable samples, kept or not, m estimates E[R] under the policy as it does without a filter, the
    advantage of a sample does not depend on which others are kept, and the kept ones sum to as much as they are
    better than the policy. Nothing is whitened afterwards.

    Args:
        estimator: a member of ``BASELINE_ESTIMATORS``.
        rewards: (G, N); entries without a share may hold anything.
        share: (G, N) the members' shares in the baseline: rows sum to 1, or to 0 where a prompt does not train.
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
