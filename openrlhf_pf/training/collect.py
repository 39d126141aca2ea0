"""Sample a policy, score every response by the reward model and by the true score, and record them; no training.

It takes OpenRLHF's own training flags, so that it measures what would train: the same prompts, template, sampling,
vLLM engines, reward model or reward function. The models that only training needs are not loaded.
"""

import asyncio
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray
from openrlhf.datasets.prompts_dataset import preprocess_data
from openrlhf.trainer.ray import create_vllm_engines
from openrlhf.trainer.ray.launcher import RayActorGroup
from openrlhf.utils import get_strategy
from openrlhf.utils.agent import SingleTurnAgentExecutor
from openrlhf.utils.utils import get_tokenizer
from ray.util.placement_group import placement_group

from openrlhf_pf.filters import Draw, make_generator
from openrlhf_pf.rollout_log import table_of, write_tables
from openrlhf_pf.training.correction.workers import reward_worker
from openrlhf_pf.training.experience_maker import FilteringExperienceMaker
from openrlhf_pf.training.flags.data import load_prompts
from openrlhf_pf.training.flags.true_scores import load_reward_func
from openrlhf_pf.training.generation import PromptSampler
from openrlhf_pf.training.rollout import Rollout
from openrlhf_pf.training.startup.launch import refuse
from openrlhf_pf.training.startup.waits import wait_for_gpus
from openrlhf_pf.training.true_score import TrueScore


def chunks(n_prompts: int, size: int, done: set[int]) -> Iterator[tuple[int, range]]:
    """Yield the number (from 1) and the prompts of each chunk that is not done."""
    for number, start in enumerate(range(0, n_prompts, size), start=1):
        if number not in done:
            yield number, range(start, min(start + size, n_prompts))


class Collector:
    """Collects prompts in order, responses, rewards and true scores, one file per chunk."""

    def __init__(self, args: SimpleNamespace) -> None:
        self.args = args
        self.directory = Path(args.collect.output)
        strategy = get_strategy(args)
        self.tokenizer = get_tokenizer(
            args.actor.model_name_or_path, None, "left", strategy, use_fast=not args.data.disable_fast_tokenizer
        )
        self.prompts = load_prompts(args)
        limit = args.collect.max_prompts or len(self.prompts)
        self.n_prompts = int(min(args.data.max_samples, len(self.prompts), limit))
        self.true_score = None
        if args.collect.score:
            self.true_score = TrueScore(load_reward_func(args.collect.score, "--collect.score"), args.collect.workers)
            try_score(self.true_score, args, self.tokenizer, self.prompts[0])
        self.reward_again = second_scoring(args)
        engines, rewards = start_models(args, strategy)
        self.sample = PromptSampler(strategy, self.tokenizer, engines)
        self.maker = FilteringExperienceMaker(None, None, rewards, None, None, strategy, self.tokenizer)

    def run(self) -> None:
        """Collect what is not there yet, and print progress.

        Raises:
            SystemExit: no sample of a file got a true score.
        """
        if self.true_score is not None:
            for file in sorted(self.directory.glob("part-*.parquet")):
                self.score_file(file)
        done = {int(file.stem.split("-")[1]) for file in self.directory.glob("part-*.parquet")}
        size = self.args.rollout.batch_size
        total = math.ceil(self.n_prompts / size)
        start, made = time.monotonic(), 0
        _print(
            f"{self.n_prompts:,} prompts x {self.maker.filter.n_samples} responses in {total} files, {len(done)} there"
        )
        for number, places in chunks(self.n_prompts, size, done):
            self.collect(number, places)
            made += len(places)
            rate = made / (time.monotonic() - start)
            left = (self.n_prompts - min(self.n_prompts, size * len(done)) - made) / rate
            duration = f"{left / 60:.0f} min" if left >= 90 else f"{max(left, 0):.0f} s"
            _print(f"file {number} of {total}, {rate:.1f} prompts/s, {duration} left")
        self.report_failures()
        _print(f"done: {self.directory}")

    def report_failures(self) -> None:
        """Print how many calls of reward functions failed, and why the last one did."""
        for what, source in (("true score", self.true_score), ("second reward", self.reward_again)):
            if source is not None and source.failed:
                _print(f"{source.failed} samples have no {what}; the last reason: {source.last_error}")

    def collect(self, number: int, places: range) -> None:
        """Sample and score the prompts at these places of the data set, and write their file."""
        samples = self.sample([self.prompts[place] for place in places])
        rollout = Rollout(samples, self.maker.filter.n_samples)
        self.maker.score(rollout, self.true_score)
        batch = rollout.filter_batch("reward", make_generator(number), number, self.tokenizer)
        nothing = np.zeros(batch.rewards.shape)  # no filter has weighed them, and none of them trains
        rows = rollout.log_rows(nothing, Draw(nothing.astype(np.int64)), batch, self.tokenizer)
        if self.args.collect.score_twice:
            rows["reward_again"] = self._score_again(rollout)
        name = self.args.collect.checkpoint or self.args.actor.model_name_or_path
        rows["checkpoint"] = [name] * len(rows["prompt"])
        rows["group"] = [places.start + group for group in rows["group"]]
        file = self.directory / f"part-{number:06d}.parquet"
        write_tables(file, [table_of(0, rows)])
        if self.true_score is not None:
            self._check_scored(file, rollout.scores)

    def _score_again(self, rollout: Rollout) -> list[float]:
        """Return the (samples,) rewards of a second scoring; NaN where it fails."""
        if self.reward_again is None:
            return self.maker.forward_rewards(rollout.samples).tolist()
        scored = self.reward_again.score_samples(rollout.samples, self.tokenizer)
        return [float(np.float32(reward)) for reward, _ in scored]  # as OpenRLHF stores the first one

    def score_file(self, file: Path) -> None:
        """Score the samples of an earlier run's file if none of them has a true score."""
        table = pq.read_table(file)
        if np.isfinite(table["score"].to_numpy(zero_copy_only=False).astype(float)).any():
            return
        texts = zip(*(table[name].to_pylist() for name in ("prompt", "response", "label")))
        scored = self.true_score.score_texts([(prompt + text, prompt, label or "") for prompt, text, label in texts])
        scores = [score for score, _ in scored]
        place = table.schema.get_field_index("score")
        write_tables(file, [table.set_column(place, table.schema.field(place), pa.array(scores, pa.float64()))])
        self._check_scored(file, np.array(scores))
        _print(f"{file.name}: scored the samples of an earlier run")

    def _check_scored(self, file: Path, scores: NDArray) -> None:
        if not np.isfinite(scores).any():
            refuse(
                f"no sample of {file} has a true score ({self.true_score.last_error}): fix --collect.score "
                f"{self.args.collect.score} and give the same command again, which scores the samples that are there.",
                status=1,
            )


def try_score(true_score: TrueScore, args: SimpleNamespace, tokenizer: Any, row: dict[str, Any]) -> None:
    """Call ``--collect.score`` once, with the label as the response, before Ray starts; exit if that fails."""
    template = tokenizer.apply_chat_template if args.data.apply_chat_template else None
    data = args.data
    prompt, label = preprocess_data(row, data.input_template, data.input_key, data.label_key, template)
    try:
        true_score.call(f"{prompt}{label}", prompt, label)
    except Exception as error:  # whatever a user's function raises
        refuse(
            f"--collect.score {args.collect.score} fails for the first prompt ({type(error).__name__}: {error}): have "
            "reward_func(queries, prompts, labels) return one number, or a dictionary with scores or rewards."
        )


def second_scoring(args: SimpleNamespace) -> TrueScore | None:
    """Return what asks ``--reward.remote_url`` again; None without it, or if samples are scored once."""
    if not (args.collect.score_twice and args.reward.remote_url):
        return None
    source = SingleTurnAgentExecutor(args.reward.remote_url)
    fetch = source._fetch_rewards_via_func if source.reward_func else source._fetch_rewards_via_http
    # The first answer is for the one query; its scores are not asked for.
    return TrueScore(lambda *call: asyncio.run(fetch(*call))[0]["rewards"], args.collect.workers)


def start_models(args: SimpleNamespace, strategy: Any) -> tuple[list, Any]:
    """Start vLLM's engines and, unless rewards come from elsewhere, the reward model's workers."""
    if not ray.is_initialized():
        ray.init(
            runtime_env={"env_vars": {"TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "true")}}
        )
    reward_gpus = 0 if args.reward.remote_url else args.reward.num_nodes * args.reward.num_gpus_per_node
    engine_gpus = args.vllm.num_engines * args.vllm.tensor_parallel_size
    shares = bool(args.train.colocate_all and reward_gpus)
    wait_for_gpus({"vllm": engine_gpus} if shares else {"reward": reward_gpus, "vllm": engine_gpus})
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
    """Collect in place of OpenRLHF's ``train(args)``, without a filter and without a rollout log."""
    args.sample_filter = "none"
    for name in [name for name in vars(args) if name.startswith("sample_filter_")]:
        if name != "sample_filter_reward_models":
            setattr(args, name, None)
    Collector(args).run()


def _print(text: str) -> None:
    print(f"collect: {text}", flush=True)
