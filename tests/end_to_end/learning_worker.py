"""One rank of a reward model that learns from made-up pairs, steps FIRST to LAST; prints its rewards as JSON.

With FIRST above 1 it starts from the checkpoint of the step before.

    RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 \
        python learning_worker.py MODEL CHECKPOINTS ZERO_STAGE FIRST LAST
"""

import ast
import json
import os
import sys
from types import SimpleNamespace

import numpy as np
from openrlhf.utils import get_strategy
from openrlhf.utils.config import hierarchize

from openrlhf_pf.training.correction.labels import Batch, Labelled
from openrlhf_pf.training.correction.workers import RefreshedRewardModelActor
from openrlhf_pf.training.flags.correction import REFRESHED

PROMPTS, SAMPLES, STEPS = 4, 3, 4  # prompts of a step, over all ranks


#: What the worker reads of OpenRLHF's arguments.
PLAIN = """
local_rank=-1 ckpt.max_num=9 ckpt.max_mem=1000 ckpt.disable_ds=False ds.load_in_4bit=False ds.packing_samples=False
ds.experts_implementation=None ds.enable_sleep=False reward.normalize_enable=False reward.offload=False train.seed=1
actor.gradient_checkpointing_enable=False train.colocate_all=False train.colocate_critic_reward=False
train.batch_size=8 train.micro_batch_size=2 sample_filter_reward_models=None
"""


def arguments(path: str, stage: int, resumed: bool) -> SimpleNamespace:
    values = {name: ast.literal_eval(value) for name, _, value in (word.partition("=") for word in PLAIN.split())}
    values |= {"ds.param_dtype": "bf16", "ds.attn_implementation": "eager", "ds.value_head_prefix": "score"}
    values |= {"sample_filter_correct": "refresh", "sample_filter_correct_options": ["learning_rate=0.01"]}
    values |= {"ckpt.path": path, "ckpt.load_enable": resumed, "ds.zero_stage": stage}
    return hierarchize(SimpleNamespace(**values))


def batch_of(step: int) -> list[Labelled]:
    generator = np.random.default_rng(step)
    prompts = []
    for _ in range(PROMPTS):
        sequences = [generator.integers(2, 200, generator.integers(4, 9)) for _ in range(SAMPLES)]
        prompts.append(Labelled(sequences, generator.permutation(SAMPLES).astype(float), np.zeros(SAMPLES)))
    return prompts


def main(model: str, path: str, stage: int, first: int, last: int) -> None:
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    worker = RefreshedRewardModelActor(ranks, rank, os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"])
    worker.init_model_from_pretrained(get_strategy(arguments(path, stage, first > 1)), model)
    for step in range(first, last + 1):
        worker.refresh(**Batch(batch_of(step)[rank::ranks]).tensors(0))
        worker.save_checkpoint(f"global_step{step}")
    batch = Batch(batch_of(99)).tensors(0)
    rewards = {
        str(name): worker.forward(batch["sequences"], batch["attention_mask"], model=name).float().tolist()
        for name in (None, REFRESHED)
    }
    if rank == 0:
        print("REWARDS", json.dumps(rewards), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
