"""The reward model's workers: with further reward models, and with a copy that keeps learning.

Ray ships these classes by value, see :func:`openrlhf_pf.training.trainer.install`.
"""

import copy
import os
import sys
from types import SimpleNamespace
from typing import Any

import openrlhf.trainer.ray.launcher as launcher
import ray
import torch
from deepspeed.accelerator import get_accelerator
from openrlhf.models import get_llm_for_sequence_regression
from openrlhf.utils import get_tokenizer
from openrlhf.utils.deepspeed.deepspeed_utils import offload_deepspeed_states, reload_deepspeed_states

from openrlhf_pf.training.flags.correction import REFRESHED, correction_options
from openrlhf_pf.training.flags.reward_models import reward_models
from openrlhf_pf.training.flags.sample_filter import corrects


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


class RefreshedRewardModelActor(EnsembleRewardModelActor):
    """A reward model's worker that also holds a copy of the model that learns from true scores.

    The model as given stays: what was learned is trusted only while it orders fresh true scores better than that one.
    The copy is prepared as OpenRLHF prepares the critic, so that ZeRO shards its optimizer.
    """

    def init_model_from_pretrained(self, strategy: Any, pretrain: str) -> None:
        super().init_model_from_pretrained(strategy, pretrain)
        args = strategy.args
        # One optimizer step for each batch that the controller sends.
        own = copy.copy(self.strategy)
        own.use_dynamic_batch = False
        own.micro_train_batch_size, own.accumulated_gradient = 1, 1
        own.train_batch_size = own.world_size // own.ring_attn_size // own.ds_tensor_parallel_size
        model = get_llm_for_sequence_regression(
            pretrain,
            "reward",
            normalize_reward=args.reward.normalize_enable,
            attn_implementation=args.ds.attn_implementation,
            experts_implementation=args.ds.experts_implementation,
            param_dtype=args.ds.param_dtype,
            ds_config=own.get_ds_train_config(),
            value_head_prefix=args.ds.value_head_prefix,
            packing_samples=args.ds.packing_samples,
        )
        if args.actor.gradient_checkpointing_enable:
            reentrant = args.actor.gradient_checkpointing_reentrant
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        self.refreshed, self.optimizer, self.scheduler = own.prepare((model, _optimizer_settings(args)))
        self.refresh_strategy = own
        self.checkpoints = os.path.join(args.ckpt.path, "_reward")
        if args.ckpt.load_enable and os.path.exists(self.checkpoints):
            own.load_ckpt(self.refreshed, self.checkpoints)
        if args.ds.enable_sleep:
            offload_deepspeed_states(self.refreshed)

    def forward(self, *args: Any, model: str | None = None, **kwargs: Any) -> torch.Tensor:
        """Score with the copy that learns if ``model`` is ``REFRESHED``."""
        if model != REFRESHED:
            return super().forward(*args, model=model, **kwargs)
        given, self.model = self.model, self.refreshed
        self.refreshed.eval()
        try:
            return super(EnsembleRewardModelActor, self).forward(*args, **kwargs)
        finally:
            self.model = given

    def refresh(
        self, sequences: torch.Tensor, attention_mask: torch.Tensor, pairs: torch.Tensor, weights: torch.Tensor
    ) -> float:
        """Take one optimizer step of the Bradley-Terry loss on pairs of responses; return the loss.

        Args:
            sequences, attention_mask: (S, T) tokens of prompts with their responses.
            pairs: (P, 2) rows of ``sequences``: the one with the higher true score, the one with the lower.
            weights: (P,) of the pairs in the loss.
        """
        device = get_accelerator().current_device_name()
        self.refreshed.train()
        rewards = self.refreshed(
            sequences.to(device),
            attention_mask.to(device),
            ring_attn_group=self.strategy.ring_attn_group,
            pad_sequence=True,
        )
        better, worse = rewards.float()[pairs.to(device)].unbind(1)
        loss = -(torch.nn.functional.logsigmoid(better - worse) * weights.to(device)).sum()
        self.refresh_strategy.backward(loss, self.refreshed, self.optimizer)
        self.refresh_strategy.optimizer_step(self.optimizer, self.refreshed, self.scheduler, name="reward")
        return loss.item()

    def reload_states(self) -> None:
        """Bring the optimizer's states back, before learning, where models take turns on the GPUs."""
        reload_deepspeed_states(self.refreshed)

    def offload_states(self) -> None:
        """Move the optimizer's states to the host's memory."""
        offload_deepspeed_states(self.refreshed)

    def save_checkpoint(self, tag: str) -> None:
        """Save the copy and its optimizer where a resumed run finds them."""
        settings = self.strategy.args.ckpt
        if not settings.disable_ds:
            strategy = self.refresh_strategy
            strategy.save_ckpt(self.refreshed, self.checkpoints, tag, settings.max_num, settings.max_mem)

    def save_model(self) -> None:
        """Save the copy for later use, as OpenRLHF saves a reward model."""
        args = self.strategy.args
        fast = not args.data.disable_fast_tokenizer
        tokenizer = get_tokenizer(self.main, self.refreshed.module, "left", self.strategy, use_fast=fast)
        self.refresh_strategy.save_model(self.refreshed, tokenizer, args.ckpt.output_dir + "_reward")


def _optimizer_settings(args: SimpleNamespace) -> dict[str, Any]:
    adam = {"lr": correction_options(args).learning_rate, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
    schedule = {"lr_scheduler": "constant", "lr_warmup_ratio": 0.0, "scheduler_steps": 1}
    return {"optim": "adam", "adam": adam, "max_norm": 1.0, **schedule}


def reward_worker(args: SimpleNamespace) -> Any:
    """Return the class of the reward model's workers: OpenRLHF's own if there is one model and it does not learn."""
    if not corrects(args) and not reward_models(args):
        return launcher.RewardModelActor
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return ray.remote(num_gpus=1)(RefreshedRewardModelActor if corrects(args) else EnsembleRewardModelActor)
