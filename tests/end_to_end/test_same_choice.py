"""The same seed, prompts and rewards: the same samples train and the weights are the same, whatever the ranks."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_training import steps_of

HERE = Path(__file__).parent

#: bfloat16 has 8 bits: what ranks add up in another order would be other responses in a step or two.
IN_FLOAT32 = {"RAY_ADDRESS": "local", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}

#: Three optimizer steps of 8 x 2 samples and one of what ranks can share of 3 x 2. Adam's epsilon is so large that
#: it is SGD, whose step goes by the gradient's size and not by its sign alone.
FLAGS = (
    f"--sample_filter best_random --train.agent_func_path {HERE / 'seeded_agent.py'} "
    "--train.batch_size 16 --train.micro_batch_size 2 --rollout.micro_batch_size 2 --algo.kl.init_coef 0 "
    "--actor.adam.eps 1 --actor.adam.lr 1 --actor.lr_scheduler constant "
    "--ckpt.save_hf --ckpt.save_steps 1 --ckpt.max_num 10 --ckpt.load_enable "
)


def flags(folder, ranks, zero_stage, engines):
    return (
        f"{FLAGS} --sample_filter_log {folder / 'log'} --ds.zero_stage {zero_stage} --vllm.num_engines {engines} "
        f"--actor.num_gpus_per_node {ranks} --critic.num_gpus_per_node {ranks}"
    )


def choice(rows) -> dict[bool, Counter]:
    """What was sampled, and what of it is kept."""
    samples = list(zip(rows.prompt, rows.response, rows.reward, rows.kept))
    return {kept: Counter(s[:3] for s in samples if s[3] or not kept) for kept in (False, True)}


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    (path,) = (folder / "checkpoints").glob(f"global_step{step}_hf")
    return load_file(path / "model.safetensors")


def distance(one, other) -> float:
    """The largest difference of a weight."""
    return max(float((one[name] - other[name]).abs().max()) for name in one.keys() | other.keys())


@pytest.mark.by_hand
def test_one_two_and_four_ranks_and_a_resumed_run_choose_the_same_and_learn_the_same(stack, tmp_path):
    """27 prompts: three steps of 8, then 3 of which one rank can train all, two ranks two, and four ranks none."""
    folders = {}
    for ranks, zero_stage, engines in ((1, 0, 1), (2, 2, 2), (4, 3, 1)):
        folder = folders[ranks] = tmp_path / f"ranks{ranks}"
        run = stack.train(folder, 27, flags(folder, ranks, zero_stage, engines), **IN_FLOAT32)
        assert run.samples("ActorPPOTrainer", "train") == 3 * 16 + {1: 6, 2: 4, 4: 0}[ranks]
    start = load_file(stack.policy / "model.safetensors")
    logs = {ranks: steps_of(folder) for ranks, folder in folders.items()}
    moved = {step: distance(weights(folders[1], step), start) for step in (1, 2, 3)}
    assert min(moved.values()) > 1e-3
    for ranks in (2, 4):
        for step in (1, 2, 3):
            assert choice(logs[ranks][step]) == choice(logs[1][step])
            assert distance(weights(folders[ranks], step), weights(folders[1], step)) < 1e-4 * moved[step]
    few, fewer, none = (choice(log[4])[True] for log in logs.values())
    assert none < fewer < few, "what ranks cannot share is dropped from the same choice"

    resumed = folders[2].with_name("resumed")
    later = shutil.ignore_patterns("global_step[2-4]*")
    shutil.copytree(folders[2] / "checkpoints", resumed / "checkpoints", ignore=later)
    for model in ("_actor", "_critic"):
        (resumed / "checkpoints" / model / "latest").write_text("global_step1")
    run = stack.train(resumed, 27, flags(resumed, 2, 2, 2), **IN_FLOAT32)
    assert list(run.steps) == [2, 3, 4]
    for step, rows in steps_of(resumed).items():
        assert choice(rows) == choice(logs[2][step])
        if step < 4:
            assert distance(weights(resumed, step), weights(folders[2], step)) < 1e-4 * moved[step]
