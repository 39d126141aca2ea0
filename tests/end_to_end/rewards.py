"""A reward function as users write it: rewards and true scores that differ, and rewards that are missing."""

import json

import torch

from openrlhf_pf.code_reward.reward import check_responses


def reward_func(queries, prompts, labels, **kwargs):
    """The reward is the share of distinct characters; the score, whether there are many, which a program in the
    sandbox finds out. Some have no reward.
    """
    response = queries[0][len(prompts[0]) :]
    reward = len(set(response)) / max(1, len(response))
    if "add 3" in prompts[0]:
        raise RuntimeError("this prompt's reward cannot be had")
    if "add 4" in prompts[0] and len(response) % 2:
        reward = float("nan")
    program = f"def characters():\n    return {[ord(character) for character in response]}\n"
    (result,) = check_responses([program], [json.dumps({"asserts": ["assert len(set(characters())) > 6"]})])
    return {
        "rewards": torch.tensor([reward]),
        "scores": torch.tensor([result.reward]),
        "extra_logs": {"length": torch.tensor([float(len(response))]), "calls": torch.tensor([float(result.calls)])},
    }
