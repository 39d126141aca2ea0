"""The reward model's workers: with further reward models, and with the states from which rewards are corrected.

Ray ships these classes by value, see :func:`openrlhf_pf.training.trainer.install`.
"""

import sys
from types import SimpleNamespace
from typing import Any

import deepspeed
import openrlhf.trainer.ray.launcher as launcher
import ray
import torch
from deepspeed.accelerator import get_accelerator
from openrlhf.utils import get_tokenizer

from openrlhf_pf.training.flags.reward_models import reward_models
from openrlhf_pf.training.flags.sample_filter import reads_states


def undecorated(actor_class: Any) -> type:
    """Return the class that ``@ray.remote`` was put on (Ray's own subclass of it could not be decorated again)."""
    return actor_class.__ray_metadata__.modified_class.__ray_actor_class__


class EnsembleRewardModelActor(undecorated(launcher.RewardModelActor)):
    """A reward model's worker that also holds the models of ``--sample_filter_reward_models``.

    They share its GPU. If that is shared with other models, one of them at a time is on it and the others wait in the
    host's memory. Under ZeRO-3, DeepSpeed has the shards, and ``--reward.offload`` says where they are.
    """

    def _setup_distributed(self, strategy: Any) -> None:
        if not self.models:
            super()._setup_distributed(strategy)

    def init_model_from_pretrained(self, strategy: Any, pretrain: str) -> None:
        self.models: dict[str, Any] = {}
        args = strategy.args
        shared = args.train.colocate_all or args.train.colocate_critic_reward or args.reward.offload
        self.one_at_a_time = shared and args.ds.zero_stage != 3
        self.main = pretrain
        for path in dict.fromkeys([*reward_models(args), pretrain]):
            super().init_model_from_pretrained(strategy, path)
            self.models[path] = self.model
            if self.one_at_a_time and path != pretrain:
                self.model.to("cpu")

    def forward(self, *args: Any, model: str | None = None, **kwargs: Any) -> torch.Tensor:
        """Score with the model of that path; OpenRLHF's own without one."""
        wanted = self.models[model or self.main]
        if wanted is not self.model:
            if self.one_at_a_time:
                self.model.to("cpu")
                wanted.to(get_accelerator().current_device_name())
            self.model = wanted
        return super().forward(*args, **kwargs)


class CorrectedRewardModelActor(EnsembleRewardModelActor):
    """A reward model's worker that also returns the last state of each sample, from which a head corrects rewards."""

    def forward(
        self, sequences: torch.Tensor, attention_mask: torch.Tensor, model: str | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Return (B, 1 + d): the main model's rewards, and the states that its value head read; (B,) of others."""
        if model not in (None, self.main):
            return super().forward(sequences, attention_mask, model=model, **kwargs)
        read: list[torch.Tensor] = []
        hook = self._value_head().register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            rewards = super().forward(sequences, attention_mask, model=model, **kwargs)
        finally:
            hook.remove()
        states = last_states(read[0], attention_mask, self.strategy.args.ds.packing_samples)
        return torch.cat([rewards.unsqueeze(1), states.to(rewards)], dim=1)

    def _value_head(self) -> torch.nn.Linear:
        return getattr(self.models[self.main], self.strategy.args.ds.value_head_prefix)

    def save_corrected(self, gain: float, direction: torch.Tensor) -> None:
        """Save the main model with ``gain * reward + state @ direction`` as its reward, up to a constant."""
        args, model, head = self.strategy.args, self.models[self.main], self._value_head()
        std = model.std.item() if args.reward.normalize_enable else 1.0
        with deepspeed.zero.GatheredParameters([head.weight], modifier_rank=0, enabled=args.ds.zero_stage == 3):
            head.weight.data.mul_(gain).add_(std * direction.to(head.weight).unsqueeze(0))
        tokenizer = get_tokenizer(
            self.main, None, "left", self.strategy, use_fast=not args.data.disable_fast_tokenizer
        )
        self.strategy.save_model(model, tokenizer, args.ckpt.output_dir + "_reward")


def last_states(states: torch.Tensor, attention_mask: torch.Tensor, packed: bool) -> torch.Tensor:
    """Return (B, d) the states at the last token of each sample, where OpenRLHF reads its reward.

    Args:
        states: (B, T, d), or (1, tokens, d) if samples are packed without padding.
        attention_mask: (B, T).
        packed: whether they are.
    """
    mask = attention_mask.to(states.device).long()
    if packed:
        return states[0, mask.sum(dim=1).cumsum(dim=0) - 1]
    ends = mask.shape[1] - 1 - mask.fliplr().argmax(dim=1)
    return states[torch.arange(len(mask), device=states.device), ends]


def reward_worker(args: SimpleNamespace) -> Any:
    """Return the class of the reward model's workers: OpenRLHF's own if there is one model and no head corrects it."""
    if not reads_states(args) and not reward_models(args):
        return launcher.RewardModelActor
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return ray.remote(num_gpus=1)(CorrectedRewardModelActor if reads_states(args) else EnsembleRewardModelActor)
