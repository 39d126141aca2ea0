"""A reward model's workers as they learn from a few true scores, for an experience maker."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from openrlhf.trainer.ppo_utils.experience import Experience

from openrlhf_pf.training.correction.labels import Correction, Labelled
from openrlhf_pf.training.flags.correction import REFRESHED
from openrlhf_pf.training.rollout import Rollout


class Learning:
    """The reward model's workers as they learn, for an experience maker.

    Args:
        maker: the ``FilteringExperienceMaker``.
        ranks: data-parallel ranks of the reward model.
    """

    def __init__(self, maker: Any, ranks: int) -> None:
        self.maker, self.group, self.args = maker, maker.reward_model_group, maker.given
        self.correction = Correction(self.args, maker.seed, ranks)
        self._running: list = []

    def correct(self, rollout: Rollout) -> dict[str, float]:
        """Have some of a scored rollout judged, compare both models on it, and let the copy learn; return metrics."""
        correction, maker = self.correction, self.maker
        trusted = correction.trusted  # when the rollout was scored

        def forward(samples: list[Experience], learned: bool) -> NDArray[np.float64]:
            return maker._forward_rewards(samples, REFRESHED if learned else None).double().numpy()

        correction.observe(rollout, maker.step, maker.tokenizer, forward)
        self._learn([b.tensors(maker.tokenizer.pad_token_id) for rank in correction.batches(maker.step) for b in rank])
        return correction.metrics() | {"filter/correct_trusted": float(trusted)}

    def _learn(self, batches: list[dict[str, torch.Tensor]]) -> None:
        if not batches:
            return
        if self.args.ds.enable_sleep:
            ray.get(self.group.async_run_method("reload_states"))
        # On GPUs of its own, the reward model learns while the policy trains and generates.
        arguments = {name: [batch[name] for batch in batches] for name in batches[0]}
        self._running = self.group.async_run_method_batch("refresh", **arguments)
        if self.args.train.colocate_all or self.args.train.colocate_critic_reward:
            self.finish()

    def finish(self) -> None:
        """Wait until the copy has learned, and bring its rewards to the scale of the model as given."""
        if not self._running:
            return
        ray.get(self._running)
        self._running = []
        if self.args.ds.enable_sleep:
            ray.get(self.group.async_run_method("offload_states"))

        def forward(prompts: Sequence[Labelled]) -> NDArray[np.float64]:
            samples = [_as_sample(tokens) for prompt in prompts for tokens in prompt.sequences]
            return self.maker._forward_rewards(samples, REFRESHED).double().numpy().reshape(len(prompts), -1)

        self.correction.calibrate(forward)

    def save_checkpoint(self, tag: str) -> None:
        """Save what was learned next to the other models' checkpoints."""
        self.finish()
        ray.get(self.group.async_run_method("save_checkpoint", tag=tag))

    def save_model(self) -> None:
        """Save the copy that learned next to the policy."""
        self.finish()
        ray.get(self.group.async_save_model())


def _as_sample(tokens: NDArray[np.int64]) -> Experience:
    """Return a sample with what a reward model reads."""
    sequences = torch.from_numpy(tokens).unsqueeze(0)
    length = torch.tensor([float(len(tokens))])
    return Experience(sequences=sequences, attention_mask=torch.ones_like(sequences), total_length=length)
