"""Sample a policy, score every response by the reward model and by the true score, and write them down; no training.

Takes OpenRLHF's own training flags, so that what is measured is what would train: the same prompts, template,
sampling, vLLM engines, reward model or reward function. The models that only training needs are not loaded.
"""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
import torch
from openrlhf.trainer.ray import create_vllm_engines
from openrlhf.trainer.ray.launcher import RayActorGroup
from openrlhf.utils import get_strategy
from openrlhf.utils.utils import get_tokenizer
from ray.util.placement_group import placement_group

from openrlhf_pf.filters import Draw, make_generator
from openrlhf_pf.rollout_log import table_of, write_table
from openrlhf_pf.training.experience_maker import FilteringExperienceMaker
from openrlhf_pf.training.rollout import Rollout
from openrlhf_pf.training.sampling import PromptSampler, load_prompts
from openrlhf_pf.training.trainer import reward_worker
from openrlhf_pf.training.true_score import TrueScore, load_reward_func


def chunks(n_prompts: int, size: int, done: set[int]) -> Iterator[tuple[int, range]]:
    """Number (from 1) and prompts of each chunk that is not done."""
    for number, start in enumerate(range(0, n_prompts, size), start=1):
        if number not in done:
            yield number, range(start, min(start + size, n_prompts))


class Collector:
    """The stages of collecting: prompts in order, responses, rewards, true scores, one file a chunk."""

    def __init__(self, args: SimpleNamespace) -> None:
        self.args = args
        self.directory = Path(args.collect.output)
        strategy = get_strategy(args)
        self.tokenizer = get_tokenizer(
            args.actor.model_name_or_path, None, "left", strategy, use_fast=not args.data.disable_fast_tokenizer
        )
        self.prompts = load_prompts(args.data.prompt_dataset, args, strategy)
        most = args.collect.max_prompts or len(self.prompts)
        self.n_prompts = int(min(args.data.max_samples, len(self.prompts), most))
        engines, rewards = start_models(args, strategy)
        self.sample = PromptSampler(strategy, self.tokenizer, engines)
        self.maker = FilteringExperienceMaker(None, None, rewards, None, None, strategy, self.tokenizer)
        self.true_score = None
        if args.collect.score:
            self.true_score = TrueScore(load_reward_func(args.collect.score, "--collect.score"), args.collect.workers)

    def run(self) -> None:
        """Collect what is not there yet, and say how it goes."""
        done = {int(file.stem.split("-")[1]) for file in self.directory.glob("part-*.parquet")}
        size = self.args.rollout.batch_size
        total = math.ceil(self.n_prompts / size)
        start, made = time.monotonic(), 0
        _say(
            f"{self.n_prompts:,} prompts x {self.maker.filter.n_samples} responses in {total} files, {len(done)} there"
        )
        for number, places in chunks(self.n_prompts, size, done):
            self.collect(number, places)
            made += len(places)
            rate = made / (time.monotonic() - start)
            left = (self.n_prompts - min(self.n_prompts, size * len(done)) - made) / rate
            _say(f"file {number} of {total}, {rate:.1f} prompts/s, {_duration(left)} left")
        if self.true_score is not None and self.true_score.failed:
            _say(f"{self.true_score.failed} samples have no true score; the last reason: {self.true_score.last_error}")
        _say(f"done: {self.directory}")

    def collect(self, number: int, places: range) -> None:
        """Sample and score the prompts at these places of the data set, and write their file."""
        samples = self.sample([self.prompts[place] for place in places])
        rollout = Rollout(samples, self.maker.filter.n_samples)
        self.maker.score(rollout, self.true_score)
        generator = make_generator(number)
        batch = rollout.filter_batch("reward", generator, number, self.tokenizer)
        nothing = torch.zeros(batch.rewards.shape)  # no filter has weighed them, and none of them trains
        rows = rollout.log_rows(nothing, Draw(nothing.long()), batch, self.tokenizer)
        name = self.args.collect.checkpoint or self.args.actor.model_name_or_path
        rows["checkpoint"] = [name] * len(rows["prompt"])
        rows["group"] = [places.start + group for group in rows["group"]]
        write_table(self.directory / f"part-{number:06d}.parquet", table_of(0, rows))


def start_models(args: SimpleNamespace, strategy: Any) -> tuple[list, Any]:
    """Start vLLM's engines and, where rewards come from one, the reward model's workers."""
    if not ray.is_initialized():
        ray.init(
            runtime_env={"env_vars": {"TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "true")}}
        )
    shared = None
    if args.train.colocate_all:
        shared = placement_group([{"GPU": 1, "CPU": 1}] * (args.reward.num_nodes * args.reward.num_gpus_per_node))
        ray.get(shared.ready())
    engines = create_vllm_engines(
        args.vllm.num_engines,
        args.vllm.tensor_parallel_size,
        args.actor.model_name_or_path,
        args.train.seed,
        args.train.full_determinism_enable,
        args.vllm.enable_prefix_caching,
        args.vllm.enforce_eager,
        args.data.max_len,
        shared,
        args.vllm.gpu_memory_utilization,
        args.vllm.enable_sleep,
        agent_func_path=args.train.agent_func_path,
        remote_rm_url=args.reward.remote_url,
        max_images_per_prompt=args.data.max_images_per_prompt,
    )
    if args.reward.remote_url:
        return engines, None
    group = RayActorGroup(
        args.reward.num_nodes,
        args.reward.num_gpus_per_node,
        reward_worker(args),
        pg=shared,
        num_gpus_per_actor=0.2 if shared else 1,
        duplicate_actors=args.ds.ring_attn_size * args.ds.tensor_parallel_size,
    )
    ray.get(group.async_init_model_from_pretrained(strategy, args.reward.model_name_or_path))
    return engines, group


def collect(args: SimpleNamespace) -> None:
    """Stand in for OpenRLHF's ``train(args)``: collect instead, what no filter has touched and no rollout log sees."""
    args.sample_filter = "none"
    for name in [name for name in vars(args) if name.startswith("sample_filter_")]:
        if name != "sample_filter_reward_models":
            setattr(args, name, None)
    Collector(args).run()


def _say(text: str) -> None:
    print(f"collect: {text}", flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(seconds, 0):.0f} s"
