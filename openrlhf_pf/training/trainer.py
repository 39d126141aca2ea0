"""OpenRLHF's trainers with a sample filter: what they inherit is OpenRLHF's, what is here is the difference."""

import contextlib
import copy
import os
import sys
from queue import Empty, Full
from typing import Any

import openrlhf.trainer.ppo_trainer as ppo_trainer
import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async
import openrlhf.trainer.ray.launcher as launcher
import ray
import torch
from openrlhf.utils.logging_utils import init_logger

from openrlhf_pf.training.correction.workers import reward_worker, undecorated
from openrlhf_pf.training.experience_maker import (
    FilteringExperienceMaker,
    NothingToTrain,
    with_samples_per_prompt,
)
from openrlhf_pf.training.flags.data import load_prompts
from openrlhf_pf.training.flags.prompts import is_scored_when_generated, selects
from openrlhf_pf.training.flags.sample_filter import filter_from_args, trained_per_prompt
from openrlhf_pf.training.flags.true_scores import load_reward_func
from openrlhf_pf.training.generation import CheckedGenerator, PromptSampler
from openrlhf_pf.training.prompt_stream import PromptStream
from openrlhf_pf.training.true_score import StopTraining, TrueScore

logger = init_logger(__name__)


class FilteredSchedule:
    """Mixin for a class that owns the prompt data set.

    Prompts come in an order that ``--train.seed`` decides, our generator and prompt selection take the place of
    OpenRLHF's, and the learning-rate schedule counts the samples that train.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        generator = self.samples_generator
        # OpenRLHF leaves the order of prompts to chance, so that two runs with the same seed would differ.
        self.prompts_dataloader.sampler.generator.manual_seed(generator.args.train.seed)
        if selects(generator.args):
            self.prompts_dataloader = PromptStream(self.prompts_dataloader, generator.args)
        self.samples_generator = CheckedGenerator(
            generator.strategy,
            self.prompts_dataloader,
            generator.eval_dataloader,
            generator.tokenizer,
            generator.vllm_engines,
        )

    def get_max_steps(self) -> int:
        """Return the optimizer steps of the run, as ``prepare_datasets`` counts them, of the samples that train."""
        args = self.samples_generator.args
        samples = len(self.prompts_dataloader.dataset) * trained_per_prompt(args, filter_from_args(args))
        return samples // args.train.batch_size * args.train.num_episodes * args.train.max_epochs


class Probe:
    """Prompts that are sampled and scored every M steps for a filter that learns from true scores."""

    def __init__(self, trainer: Any) -> None:
        args = trainer.args
        self.maker = trainer.experience_maker
        self.every = args.sample_filter_probe_every or 10
        self.sample = PromptSampler(trainer.strategy, trainer.tokenizer, trainer.vllm_engines)
        self.rows = list(load_prompts(args, args.sample_filter_probe))
        self.true_score = None
        if args.sample_filter_probe_score:
            function = load_reward_func(args.sample_filter_probe_score, "--sample_filter_probe_score")
            self.true_score = TrueScore(function, workers=os.cpu_count())

    def evaluate(self, global_step: int) -> None:
        """Sample and score the probe if this step is one of its turns."""
        if global_step % self.every:
            return
        samples = self.sample(self.rows)
        self.maker.observe(samples, self.true_score)
        if self.true_score is not None and (
            warning := self.true_score.take_failures(f"{len(samples)} samples of the probe")
        ):
            logger.warning(warning)


class FilteringTrainer:
    """Mixin for a subclass of ``BasePPOTrainer``: filter each rollout, and report on it."""

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
        self.probe = Probe(self) if self.args.sample_filter_probe else None
        # The trainer itself reads this number only to count a step's samples for the KL controller.
        per_prompt = trained_per_prompt(self.args, self.experience_maker.filter)
        self.args = with_samples_per_prompt(self.args, per_prompt)

    def fit(self, global_step: int = 0) -> None:
        try:
            super().fit(global_step)
            self._save_reward_model()
        except StopTraining as reason:
            logger.warning(f"Training ends here: {reason}.")
            self._save_reward_model()
            self.finish()
        finally:
            if self.experience_maker.log is not None:
                self.experience_maker.log.close()

    def finish(self) -> None:
        """Do what OpenRLHF's ``fit`` does at its end."""
        for tracker in (self.wandb_logger, self.tensorboard_logger):
            if tracker:
                tracker.close()

    def train_step(self, rollout_samples: list, global_step: int) -> tuple[dict, int]:
        self.experience_maker.step = global_step
        if self.probe is not None:
            self.probe.evaluate(global_step)
        try:
            status, next_step = super().train_step(rollout_samples, global_step)
        except NothingToTrain as reason:
            logger.warning(f"Step {global_step + 1} trains nothing: {reason} ({self.experience_maker.metrics}).")
            status, next_step = self._compute_rollout_stats([]), global_step + 1
        status.update(self.experience_maker.metrics)
        log = self.experience_maker.log
        if log is not None and log.lost:
            status["filter/lost_log_steps"] = float(log.lost)
        stream = getattr(self, "prompts_dataloader", None)  # in asynchronous training, the other actor's
        if isinstance(stream, PromptStream) and not is_scored_when_generated(self.args):
            rollout = self.experience_maker.rollout
            stream.observe(rollout.samples, rollout.rewards)
        return status, next_step

    def _compute_rollout_stats(self, experiences: list) -> dict:
        """Return the statistics of all N samples, kept or not, with the length penalties that training applies."""
        maker = self.experience_maker
        scored = maker.rollout.penalized(maker.given)
        if scored is None:
            return {}
        return super()._compute_rollout_stats([scored, *maker.rollout.samples_without_reward()])

    # ── What a resumed run must find again ──

    def save_logs_and_checkpoints(
        self, global_step: int, logs_dict: dict | None = None, client_states: dict | None = None
    ) -> None:
        client_states = {} if client_states is None else client_states
        state = self.experience_maker.filter.state_dict()
        if state:
            client_states["sample_filter"] = {"name": self.args.sample_filter, "state": state}
        loader = client_states.get("data_loader_state_dict", {})
        if loader.get("_iterator_finished"):
            # OpenRLHF's loader, resumed from this, starts again from the first prompt: that is the next episode.
            client_states["episode"] += 1
        if selects(self.args):
            logs_dict = (logs_dict or {}) | loader.get("metrics", {})
        rule, reason = self.experience_maker.stop_rule, None
        if rule is not None:
            client_states["stop_rule"], reason = rule.state_dict(), rule.reason()
        if reason is not None:  # save a checkpoint now
            self.args = copy.copy(self.args)
            self.args.ckpt = copy.copy(self.args.ckpt)
            self.args.ckpt.save_steps = 1
        if global_step % self.args.ckpt.save_steps == 0:
            self._add_correction(client_states)
            if self.experience_maker.log is not None:
                self.experience_maker.log.flush()  # a resumed run does not write this step again
        super().save_logs_and_checkpoints(global_step, logs_dict, client_states)
        if reason is not None:
            raise StopTraining(f"{reason}; step {global_step} is saved")

    def save_best_checkpoint(self, eval_metrics: dict, global_step: int, client_states: dict | None = None) -> None:
        client_states = {} if client_states is None else client_states
        self._add_correction(client_states)
        super().save_best_checkpoint(eval_metrics, global_step, client_states)

    def _add_correction(self, client_states: dict) -> None:
        if self.experience_maker.correction is not None:
            client_states["correction"] = self.experience_maker.correction.state_dict()

    def _save_reward_model(self) -> None:
        """Save the corrected reward model next to the policy, if rewards were corrected."""
        correction = self.experience_maker.correction
        if correction is not None and correction.trusted:
            head = {"gain": correction.head.gain, "direction": torch.from_numpy(correction.head.direction)}
            ray.get(self.reward_model_group.async_run_method("save_corrected", **head))

    def restore_best_checkpoint_state(self, checkpoint_states: dict) -> None:
        super().restore_best_checkpoint_state(checkpoint_states)
        if self.experience_maker.stop_rule is not None and "stop_rule" in checkpoint_states:
            self.experience_maker.stop_rule.load_state_dict(checkpoint_states["stop_rule"])
        correction = self.experience_maker.correction
        if correction is not None and "correction" in checkpoint_states:
            correction.load_state_dict(copy.deepcopy(checkpoint_states["correction"]))
        saved = checkpoint_states.get("sample_filter")
        if saved is None:
            return
        if saved["name"] != self.args.sample_filter:
            logger.warning(
                f"The checkpoint holds the state of --sample_filter {saved['name']}; {self.args.sample_filter} starts "
                "without it."
            )
            return
        self.experience_maker.filter.load_state_dict(copy.deepcopy(saved["state"]))  # Ray's arrays are read-only


class FilteringPPOTrainer(FilteredSchedule, FilteringTrainer, undecorated(ppo_trainer.PPOTrainer)):
    """Synchronous PPO."""


#: Replaces a step's number among the tokens that let the generating half continue: it should end.
_STOP = -1


class FilteringTrainingActor(FilteringTrainer, undecorated(ppo_trainer_async.TrainingActor)):
    """The training half of asynchronous PPO."""

    def finish(self) -> None:
        """End the generating half, too, and wait until it has: it may still have rollouts to hand over."""
        payload, send = None, True
        while payload != "done":
            with contextlib.suppress(Empty):
                while True:
                    self.rollout_slots.get(block=False)
            # Every second time: a generation that found nothing first puts its token back, which needs a free slot.
            if send:
                with contextlib.suppress(Full):
                    self.rollout_slots.put(_STOP, block=False)
            send = not send
            with contextlib.suppress(Empty):
                payload = self.rollout_queue.get(timeout=1)
        super().finish()


class FilteringGenerateSamplesActor(FilteredSchedule, undecorated(ppo_trainer_async.GenerateSamplesActor)):
    """The generating half of asynchronous PPO, which owns the data set."""

    def fit(self, episode: int, total_consumed_prompts: int) -> None:
        try:
            super().fit(episode, total_consumed_prompts)
        except StopTraining:
            self.rollout_queue.put("done", block=True)

    def _should_eval(self, global_step: int) -> bool:
        # The parent calls it with each token that it gets.
        if global_step == _STOP:
            raise StopTraining
        return super()._should_eval(global_step)


class ActorGroup(launcher.RayActorGroup):
    """A model's workers, which do not wait for an engine that could not start.

    The actor's first worker joins the engines in a group for the weights, where it would wait ten minutes for one that
    has died, for example of a reward function that cannot be imported, or for lack of memory.
    """

    def async_init_model_from_pretrained(self, *args: Any, **kwargs: Any) -> list:
        engines = next((arg for arg in args if isinstance(arg, list)), None) or []
        # ray.get raises the first failure, whatever else it waits for.
        ready = [engine.__ray_ready__.remote() for engine in engines]
        return [*super().async_init_model_from_pretrained(*args, **kwargs), *ready]


def install(args: Any, entry: Any) -> None:
    """Put our classes where OpenRLHF looks them up. Call it in the driver, before the first of them is made.

    In the driver, because Ray ships a decorated class by value, together with the module globals that it mentions: a
    name rebound in a worker comes too late. Our classes must travel by value too: as references they would bring the
    worker's import of OpenRLHF's class, in addition to the shipped one that ``super()`` in its methods means.

    Args:
        args: the nested arguments.
        entry: OpenRLHF's entry module, which has imported the workers' classes by name.
    """
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ppo_trainer.PPOTrainer = ray.remote(FilteringPPOTrainer)
    ppo_trainer_async.TrainingActor = ray.remote(FilteringTrainingActor)
    ppo_trainer_async.GenerateSamplesActor = ray.remote(FilteringGenerateSamplesActor)
    entry.RewardModelActor = reward_worker(args)
    entry.RayActorGroup = ActorGroup
