"""Rollouts and arguments by hand, on OpenRLHF's own Experience, for the tests of the training package."""

from types import SimpleNamespace

import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.utils.config import hierarchize


def namespace(**flat):
    values = {
        "sample_filter": "best_worst",
        "sample_filter_keep": None,
        "sample_filter_weights": None,
        "sample_filter_seed": None,
        "train.seed": 7,
        "train.batch_size": 4,
        "train.micro_batch_size": 1,
        "train.dynamic_batch_enable": False,
        "train.colocate_all": False,
        "train.colocate_actor_ref": False,
        "train.colocate_critic_reward": False,
        "rollout.n_samples_per_prompt": 4,
        "rollout.micro_batch_size": 2,
        "rollout.max_new_tokens": 4,
        "reward.clip_range": (-10, 10),
        "reward.overlong_buffer_len": None,
        "reward.stop_properly_penalty_coef": None,
        "algo.advantage.estimator": "reinforce",
        "algo.advantage.gamma": 1.0,
        "algo.advantage.no_std_norm": True,
        "algo.kl.use_loss": False,
        "algo.kl.estimator": "k1",
        "ds.ring_attn_size": 1,
        "ds.tensor_parallel_size": 1,
    }
    return hierarchize(SimpleNamespace(**{**values, **flat}))


class ModelGroup(SimpleNamespace):
    """What the maker reads of a RayActorGroup, and a record of what each rank was asked to do."""

    def __init__(self, ranks):
        super().__init__(_actor_handlers=[None] * ranks, duplicate_actors=1, calls=[])


def sample(prompt, reward, token=None, score=None):
    """One sample of three tokens; ``token`` is what the stand-in reward model reads."""
    info = {} if reward is None else {"reward": torch.tensor([reward])}
    return Experience(
        sequences=torch.tensor([[token or 1, prompt + 1, 9]]),
        attention_mask=torch.ones(1, 3, dtype=torch.long),
        action_mask=torch.tensor([[0, 1]]),
        prompts=[f"prompt {prompt}"],
        labels=[""],
        images=[None],
        mm_train_inputs=[None],
        rewards=None if reward is None else torch.tensor([reward]),
        scores=None if score is None else torch.tensor([score]),
        response_length=torch.tensor([1]),
        truncated=torch.tensor([False]),
        total_length=torch.tensor([3.0]),
        info=info,
    )


def rollout_of(rewards, scores=None):
    return [
        sample(g, reward, token=100 * g + n + 1, score=None if scores is None else scores[g][n])
        for g, group in enumerate(rewards)
        for n, reward in enumerate(group)
    ]
