"""OpenRLHF's trainers with a sample filter: what they inherit is OpenRLHF's, what is here is the difference."""

import sys
from dataclasses import replace
from typing import Any

import openrlhf.trainer.ppo_trainer as ppo_trainer
import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async
import ray
from openrlhf.trainer.ppo_utils.length_penalty import apply_length_penalties
from openrlhf.utils.logging_utils import init_logger

from openrlhf_pf.training.arguments import filter_from_args
from openrlhf_pf.training.experience_maker import (
    FilteringExperienceMaker,
    NothingToTrain,
    with_samples_per_prompt,
)

logger = init_logger(__name__)


def undecorated(actor_class: Any) -> type:
    """The class that ``@ray.remote`` was put on (Ray's own subclass of it could not be decorated again)."""
    return actor_class.__ray_metadata__.modified_class.__ray_actor_class__


class FilteredSchedule:
    """For a class that owns the prompt data set: the learning-rate schedule counts the samples that train."""

    def get_max_steps(self) -> int:
        """Optimizer steps of the whole run, as ``prepare_datasets`` counts them, with k for N."""
        args = self.samples_generator.args
        samples = len(self.prompts_dataloader.dataset) * filter_from_args(args).keep
        return samples // args.train.batch_size * args.train.num_episodes * args.train.max_epochs


class FilteringTrainer:
    """For a subclass of ``BasePPOTrainer``: filter each rollout, and report on it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.experience_maker = FilteringExperienceMaker(
            self.actor_model_group,
            self.critic_model_group,
            self.reward_model_group,
            self.reference_model_group,
            self.kl_ctl,
            self.strategy,
            self.tokenizer,
        )
        # What the trainer itself reads from this number is the samples of a step that the KL controller counts.
        self.args = with_samples_per_prompt(self.args, self.experience_maker.filter.keep)

    def train_step(self, rollout_samples: list, global_step: int) -> tuple[dict, int]:
        self.experience_maker.step = global_step
        try:
            status, next_step = super().train_step(rollout_samples, global_step)
        except NothingToTrain:
            logger.warning(
                f"Step {global_step + 1} trains nothing: too few of {len(rollout_samples)} samples have a usable "
                f"reward for the ranks to share ({self.experience_maker.metrics}); if this goes on, see to the reward."
            )
            status, next_step = self._compute_rollout_stats([]), global_step + 1
        status.update(self.experience_maker.metrics)
        return status, next_step

    def _compute_rollout_stats(self, experiences: list) -> dict:
        """The statistics of all N samples, kept or not, with the length penalties that training would see."""
        rollout = self.experience_maker.rollout
        usable = [sample for sample in rollout if sample.rewards is not None and bool(sample.rewards.isfinite())]
        if not usable:
            return {}
        scored = [replace(s, rewards=s.rewards.clone().float(), info={"reward": s.rewards}) for s in usable]
        apply_length_penalties(scored, self.args)
        scored += [replace(s, info={}) for s in rollout if s.rewards is None or not bool(s.rewards.isfinite())]
        return super()._compute_rollout_stats(scored)


class FilteringPPOTrainer(FilteredSchedule, FilteringTrainer, undecorated(ppo_trainer.PPOTrainer)):
    """Synchronous PPO."""


class FilteringTrainingActor(FilteringTrainer, undecorated(ppo_trainer_async.TrainingActor)):
    """The training half of asynchronous PPO."""


class FilteringGenerateSamplesActor(FilteredSchedule, undecorated(ppo_trainer_async.GenerateSamplesActor)):
    """The generating half of asynchronous PPO, which owns the data set."""


def install() -> None:
    """Put our trainers where OpenRLHF looks them up. Call it in the driver, before the first trainer is made.

    In the driver, because Ray ships a decorated class by value, together with the module globals that it mentions: a
    name rebound in a worker comes too late. Our classes must travel by value too: as references they would bring the
    worker's import of OpenRLHF's class, beside the shipped one that ``super()`` in its methods means.
    """
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ppo_trainer.PPOTrainer = ray.remote(FilteringPPOTrainer)
    ppo_trainer_async.TrainingActor = ray.remote(FilteringTrainingActor)
    ppo_trainer_async.GenerateSamplesActor = ray.remote(FilteringGenerateSamplesActor)
