"""Check at start-up that the installed OpenRLHF has the classes and functions that we override or call."""

import importlib
import inspect
import re
from collections import ChainMap
from dataclasses import fields
from importlib import metadata
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

SUPPORTED_OPENRLHF = SpecifierSet(">=0.11.0,<0.12")


def _read_signatures(text: str) -> dict[str, tuple[str, ...]]:
    """Return the parameters of each callable in texts such as ``module:Class.method(self, name)``."""
    found = re.findall(r"(\S+)\(([^)]*)\)", text)
    return {f"openrlhf.{path}": tuple(re.split(r",\s*", parameters)) for path, parameters in found}


#: Every callable that we override or call, with the parameters that we rely on, in this order.
EXPECTED_PARAMETERS: dict[str, tuple[str, ...]] = _read_signatures("""
    trainer.ppo_utils.experience_maker:RemoteExperienceMaker.__init__(self, actor_model_group, critic_model_group,
        reward_model_group, initial_model_group, kl_controller, strategy, tokenizer, kwargs)
    trainer.ppo_utils.experience_maker:RemoteExperienceMaker.make_experience_batch(self, rollout_samples)
    trainer.ppo_utils.experience_maker:RemoteExperienceMaker.split_rollout_samples(self, rollout_samples)
    trainer.ppo_utils.experience_maker:RemoteExperienceMaker.compute_advantages_and_returns(self, experiences)
    trainer.ppo_utils.experience_maker:RemoteExperienceMaker._dispatch_forward(self, group, sync_condition, kwargs)
    trainer.ppo_utils.experience_maker:RemoteExperienceMaker._flatten_results(self, refs, duplicate_factor)
    trainer.ppo_utils.experience:Experience.concat_experiences(experiences_list, pad_token_id)
    trainer.ppo_utils.experience:split_experience_batch(experience)
    trainer.ppo_utils.experience:make_experience_batch(items, packing_samples)
    trainer.ppo_utils.experience:remove_padding_in_sequences(items)
    trainer.ppo_utils.length_penalty:apply_length_penalties(experiences, args)
    trainer.ppo_utils.samples_generator:SamplesGenerator.__init__(self, strategy, prompts_dataloader, eval_dataloader,
        tokenizer, vllm_engines)
    trainer.ppo_utils.samples_generator:SamplesGenerator.generate_samples(self, generate_kwargs)
    trainer.ppo_utils.samples_generator:SamplesGenerator.generate_eval_samples(self, generate_kwargs)
    trainer.ppo_utils.samples_generator:SamplesGenerator._generate_vllm(self, dataloader_iter, num_prompts,
        dynamic_filtering, generate_kwargs)
    trainer.ppo_utils.samples_generator:SamplesGenerator._dispatch_prompts_to_vllm(self, prompts, labels, images,
        generate_kwargs)
    trainer.ppo_utils.samples_generator:SamplesGenerator._process_response_into_experience(self, response,
        generate_kwargs)
    trainer.ppo_utils.samples_generator:_collect_prompt_batch(dataloader_iter, num_prompts)
    trainer.ppo_trainer:PPOTrainer.train_step(self, rollout_samples, global_step)
    trainer.ppo_trainer:PPOTrainer._compute_rollout_stats(self, experiences)
    trainer.ppo_trainer:PPOTrainer.get_max_steps(self)
    trainer.ppo_trainer:PPOTrainer.fit(self, global_step)
    trainer.ppo_trainer:BasePPOTrainer.save_logs_and_checkpoints(self, global_step, logs_dict, client_states)
    trainer.ppo_trainer:BasePPOTrainer.save_best_checkpoint(self, eval_metrics, global_step, client_states)
    trainer.ppo_trainer:BasePPOTrainer.restore_best_checkpoint_state(self, checkpoint_states)
    trainer.ppo_trainer_async:TrainingActor.train_step(self, rollout_samples, global_step)
    trainer.ppo_trainer_async:TrainingActor._compute_rollout_stats(self, experiences)
    trainer.ppo_trainer_async:TrainingActor.fit(self, global_step)
    trainer.ppo_trainer_async:GenerateSamplesActor.get_max_steps(self)
    trainer.ppo_trainer_async:GenerateSamplesActor._should_eval(self, global_step)
    trainer.ppo_trainer_async:GenerateSamplesActor.fit(self, episode, total_consumed_prompts)
    trainer.ray.launcher:BaseModelActor._setup_distributed(self, strategy)
    trainer.ray.launcher:RayActorGroup.async_init_model_from_pretrained(self, args, kwargs)
    trainer.ray.launcher:RewardModelActor.init_model_from_pretrained(self, strategy, pretrain)
    trainer.ray.launcher:RewardModelActor.forward(self, sequences, attention_mask, packed_seq_lens, pad_sequence)
    utils.deepspeed.deepspeed:DeepspeedStrategy.save_model(self, model, tokenizer, output_dir, kwargs)
    utils.agent:SingleTurnAgentExecutor.__init__(self, remote_rm_url)
    utils.agent:SingleTurnAgentExecutor._fetch_rewards_via_func(self, queries_list, prompts_list, labels_list)
    utils.agent:SingleTurnAgentExecutor._fetch_rewards_via_http(self, queries_list, prompts_list, labels_list)
    datasets.prompts_dataset:preprocess_data(data, input_template, input_key, label_key, apply_chat_template)
    """)

#: The same for what only later releases have, by the release that added it.
EXPECTED_SINCE: dict[str, dict[str, tuple[str, ...]]] = {"0.11.2": _read_signatures("""
        models.loss:PolicyLoss.__init__(self, clip_eps_low, clip_eps_high, dual_clip, token_level_loss,
            policy_loss_type, is_correction_level, is_correction_mode, is_correction_gating, is_correction_threshold)
        models.loss:PolicyLoss.forward(self, log_probs, old_log_probs, advantages, action_mask, rollout_log_probs,
            dp_size, batch_num_tokens, global_batch_size)
        """)}

EXPECTED_EXPERIENCE_FIELDS = frozenset(
    "sequences attention_mask action_mask rewards scores response_length truncated index prompts info".split()
)


def check_version() -> str:
    """Return the version of the installed OpenRLHF, without importing it.

    Raises:
        ImportError: it is missing or not supported; one sentence.
    """
    try:
        found = metadata.version("openrlhf")
    except metadata.PackageNotFoundError:
        raise ImportError(f"OpenRLHF {SUPPORTED_OPENRLHF} is needed, but it is not installed: install it.") from None
    if Version(found) not in SUPPORTED_OPENRLHF:
        raise ImportError(
            f"OpenRLHF {SUPPORTED_OPENRLHF} is supported, found {found}: install a supported version, or a release of "
            "openrlhf-pf that supports yours."
        )
    return found


def check_interface() -> None:
    """Check that the installed OpenRLHF has all that we override and call; imports it.

    Raises:
        ImportError: one sentence that names what was expected and what was found.
    """
    found = metadata.version("openrlhf")
    later = [expected for since, expected in EXPECTED_SINCE.items() if Version(found) >= Version(since)]
    for path, parameters in ChainMap(EXPECTED_PARAMETERS, *later).items():
        check_parameters(path, parameters)
    experience = importlib.import_module("openrlhf.trainer.ppo_utils.experience").Experience
    missing = EXPECTED_EXPERIENCE_FIELDS - {field.name for field in fields(experience)}
    if missing:
        raise ImportError(f"OpenRLHF {found} has no Experience.{', Experience.'.join(sorted(missing))}, expected it.")


def check_parameters(path: str, expected: tuple[str, ...]) -> None:
    """Check that ``module:Class.method`` or ``module:function`` takes the expected parameters.

    Raises:
        ImportError: it does not exist, or takes others.
    """
    module, _, qualified = path.partition(":")
    target: Any = importlib.import_module(module)
    for name in qualified.split("."):
        target = getattr(target, name, None)
        if hasattr(target, "__ray_metadata__"):  # an actor class: use the class that was decorated
            target = target.__ray_metadata__.modified_class
    if target is None:
        raise ImportError(f"expected OpenRLHF to have {path}, found nothing of that name.")
    # Ray adds a tracing parameter to the methods of actor classes.
    found = tuple(name for name in inspect.signature(target).parameters if name != "_ray_trace_ctx")
    if found != expected:
        raise ImportError(f"expected {path} to take ({', '.join(expected)}), found ({', '.join(found)}).")
