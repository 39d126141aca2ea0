"""The command lines of OpenRLHF's trainers for a study, and the environment that runs them on a CPU."""

import os
import socket
from pathlib import Path

from .config import PPOConfig, RewardConfig, SFTConfig, Study


def _flags(values: dict[str, object]) -> list[str]:
    """Return ``--a.b 1 --c`` of ``{"a.b": 1, "c": True}``."""
    command: list[str] = []
    for name, value in values.items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return command


_DEEPSPEED = {"ds.zero_stage": 0, "ds.attn_implementation": "sdpa"}
_ONE_PROCESS = _DEEPSPEED | {f"{role}.num_gpus_per_node": 1 for role in ("actor", "critic", "reward", "ref")}
_ENGINE = {"vllm.num_engines": 1, "vllm.tensor_parallel_size": 1, "vllm.enforce_eager": True}


def _supervised(
    study: Study, settings: SFTConfig | RewardConfig, policy: Path, data: Path | str, output: Path
) -> dict[str, object]:
    return {
        "model.model_name_or_path": policy,
        "data.dataset": data,
        "data.max_len": study.evaluation.max_length,
        "train.batch_size": settings.batch_size,
        "train.micro_batch_size": settings.batch_size,
        "train.max_epochs": settings.epochs,
        "train.seed": study.seed,
        "adam.lr": settings.learning_rate,
        "ckpt.output_dir": output,
        "logger.tensorboard_dir": output / "tensorboard",
    } | _DEEPSPEED


def sft(study: Study, policy: Path, data: Path, output: Path) -> list[str]:
    """Return OpenRLHF's ``train_sft`` on the demonstrations."""
    columns = {"data.input_key": "input", "data.output_key": "output", "data.input_template": "{}"}
    return ["openrlhf.cli.train_sft", *_flags(_supervised(study, study.sft, policy, data, output) | columns)]


def reward_model(study: Study, policy: Path, pairs: Path | str, eval_pairs: Path, output: Path) -> list[str]:
    """Return OpenRLHF's ``train_rm`` from the SFT policy's weights; several files of pairs with commas."""
    values = _supervised(study, study.reward, policy, pairs, output)
    columns = {"data.prompt_key": "prompt", "data.chosen_key": "chosen", "data.rejected_key": "rejected"}
    return ["openrlhf.cli.train_rm", *_flags(values | columns | {"eval.dataset": eval_pairs})]


def ppo(study: Study, run: PPOConfig, policy: Path, reward: Path, prompts: Path, output: Path) -> list[str]:
    """Return OpenRLHF's PPO, with a sample filter where ``run`` has one.

    Actor and reference start from the SFT policy, the critic from the reward model.
    """
    values = {
        "actor.model_name_or_path": policy,
        "reward.model_name_or_path": reward,
        "critic.model_name_or_path": reward,
        "data.prompt_dataset": prompts,
        "data.input_key": "input",
        "data.max_len": study.evaluation.max_length,
        "rollout.max_new_tokens": study.evaluation.max_new_tokens,
        "rollout.batch_size": run.rollout_prompts,
        "rollout.n_samples_per_prompt": run.samples,
        "rollout.micro_batch_size": run.micro_batch_size,
        "train.batch_size": run.batch_size,
        "train.micro_batch_size": run.micro_batch_size,
        "train.seed": study.seed,
        "actor.adam.lr": run.learning_rate,
        "critic.adam.lr": run.critic_learning_rate,
        # OpenRLHF trains the actor once the step exceeds this number.
        "critic.freezing_steps": run.critic_warmup_steps - 1,
        "algo.kl.init_coef": run.kl,
        "vllm.sync_backend": "gloo",
        "ckpt.output_dir": output / "final",
        "ckpt.path": output / "checkpoints",
        "ckpt.save_steps": run.save_every,
        "ckpt.save_hf": True,
        "ckpt.disable_ds": True,
        "ckpt.max_num": 1000,
        "logger.tensorboard_dir": output / "tensorboard",
    }
    has_filter = run.sample_filter != "none"
    ours = has_filter or "--prompt_selection" in run.flags or "--sample_filter_correct" in run.flags
    entry = "train_ppo" if ours else "train_ppo_ray"
    if has_filter:
        values |= {"sample_filter": run.sample_filter, "sample_filter_keep": run.keep}
    if run.weights:
        values["sample_filter_options"] = "weights=" + ",".join(map(str, run.weights))
    return [f"openrlhf.cli.{entry}", *_flags(values | _ENGINE | _ONE_PROCESS), *run.flags]


def collect(
    study: Study, policy: Path, reward: Path, prompts: Path, output: Path, name: str = "SFT", samples: int = 0
) -> list[str]:
    """Return the command that samples the policy ``name`` with rewards and true scores, as PPO would sample.

    ``samples`` is the number of responses a prompt; 0 for PPO's.
    """
    values = {
        "actor.model_name_or_path": policy,
        "reward.model_name_or_path": reward,
        "data.prompt_dataset": prompts,
        "data.input_key": "input",
        "data.label_key": "label",
        "data.max_len": study.evaluation.max_length,
        "rollout.max_new_tokens": study.evaluation.max_new_tokens,
        "rollout.batch_size": 300,
        "rollout.n_samples_per_prompt": samples or study.ppo.samples,
        "rollout.micro_batch_size": study.ppo.micro_batch_size,
        "train.seed": study.seed,
        "collect.output": output,
        "collect.score": Path(__file__).parent / "true_score.py",
        "collect.checkpoint": name,
    }
    return ["openrlhf_pf.cli.collect", *_flags(values | _ENGINE | _ONE_PROCESS)]


def analyze(samples: Path, output: Path) -> list[str]:
    """Return the command that says how well rewards predict true scores, and which of the usual filters fits."""
    strategies = ["none", "best_of_n", "best_worst", "best_random"]
    return ["openrlhf_pf.cli.analyze", str(samples), "--output", str(output), "--strategies", *strategies]


def launcher_variables() -> dict[str, str]:
    """Return the variables that train_sft and train_rm expect of a launcher, for one process with all cores."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads take ten times as long when other processes use the cores
    }


def environment(ray_directory: Path) -> dict[str, str]:
    """Return the environment of a trainer on a machine without GPUs, with a private Ray that has logical ones."""
    return os.environ | {
        # Ray: never join a cluster that happens to run here; the path must be short, since it holds Unix sockets
        "RAY_ADDRESS": "local",
        "RAY_OVERRIDE_RESOURCES": '{"CPU": 16, "GPU": 8}',
        "RAY_TMPDIR": str(ray_directory),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # Ray starts its workers at 15, behind everything else on the machine
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1",  # as OpenRLHF starts Ray
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs the model itself instead of starting a worker for it
        # One thread a process: the models are tiny, and idle OpenMP threads that spin cost more than they give
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",  # compiling the entropy takes longer than a short run saves by it
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
