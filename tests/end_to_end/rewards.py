"""A reward function as users write it: rewards and true scores that differ, and rewards that are missing."""

import torch


def reward_func(queries, prompts, labels, **kwargs):
    """The reward is the share of distinct characters; the score, whether there are many. Some have no reward."""
    response = queries[0][len(prompts[0]) :]
    reward = len(set(response)) / max(1, len(response))
    if "add 3" in prompts[0]:
        raise RuntimeError("this prompt's reward cannot be had")
    if "add 4" in prompts[0] and len(response) % 2:
        reward = float("nan")
    return {
        "rewards": torch.tensor([reward]),
        "scores": torch.tensor([float(len(set(response)) > 6)]),
        "extra_logs": {"length": torch.tensor([float(len(response))])},
    }
