"""Baselines of group estimators over other samples than the (prompts, k) rectangle that OpenRLHF works on.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt.
"""

from torch import Tensor


def centred(estimator: str, rewards: Tensor, share: Tensor, members: Tensor) -> Tensor:
    """What a group estimator makes of rewards, with a baseline from chosen samples of the prompt.

    With c = n / (n - 1), the mean m and the variance v = sum(share (R - m)^2) of a prompt's members:
    ``rloo`` c (R - m), which is R less the mean of the other n - 1; ``reinforce_baseline`` and ``dr_grpo`` R - m;
    ``group_norm`` (R - m) / (sqrt(c v) + 1e-9). With equal shares of n members these are OpenRLHF's own figures.

    Args:
        estimator: a member of ``GROUP_ESTIMATORS``.
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
