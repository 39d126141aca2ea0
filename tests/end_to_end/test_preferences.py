"""Reward learning on policy on the real stack: from PPO to PPO."""

import json
import math
import subprocess
import sys

import pytest
import torch
from real_stack import stack_environment
from safetensors.torch import load_file
from true_score import ascii_characters

from openrlhf_pf import rollout_log
from openrlhf_pf.cli.preferences import main

PPO = ("-m", "openrlhf.cli.train_ppo")
pytestmark = pytest.mark.end_to_end

# Answers of a random policy never agree: a third of their lengths does.
SAME = """
def same(prompt, responses, label):
    return [int(sum(map(str.isascii, text)) % 3 > 0) for text in responses]
"""


@pytest.mark.slow
def test_the_whole_loop_from_ppo_to_ppo(stack, tmp_path):
    """PPO, the trained policy's samples, pairs of them, a reward model from the first policy, and PPO by it."""
    ppo = "--train.batch_size 8 --sample_filter best_worst --actor.adam.lr 1e-3"
    first = stack.train(tmp_path / "first", 8, f"{ppo} --reward.model_name_or_path {stack.reward}", PPO)
    policy = tmp_path / "first" / "out"
    assert list(first.steps) == [1]
    assert_differ(weights(policy), weights(stack.policy))

    folder, samples, output = tmp_path / "run", tmp_path / "run" / "samples", tmp_path / "spg.jsonl"
    flags = (
        f"--collect.output {samples} --collect.unscored --reward.model_name_or_path {stack.reward} "
        f"--actor.model_name_or_path {policy}"
    )
    run = stack.train(folder, 16, flags, ("-m", "openrlhf_pf.cli.collect"))
    assert "16 prompts x 4 responses in 2 files" in run.log
    rows = rollout_log.read(samples).to_pandas()
    rows.response = rows.response.str.removesuffix(" ")  # as pairs are made of them
    assert rows.reward.notna().all() and rows.score.isna().all() and set(rows.checkpoint) == {str(policy)}

    (tmp_path / "same.py").write_text(SAME)
    assert rows.truncated.mean() > 0.5, "a random policy hardly ever ends an answer, so that none could win"
    file = tmp_path / "samples.jsonl"
    rows[["prompt", "group", "response", "reward"]].to_json(file, orient="records", lines=True)
    command = [str(file), "--cluster", f"{tmp_path / 'same.py'}:same", "--output", str(output)]
    assert main(command) == 0
    pairs = [json.loads(line) for line in output.read_text().splitlines()]
    assert pairs and {pair["prompt"] for pair in pairs} <= set(rows.prompt)
    groups = [answers for _, answers in rows.groupby("group")]  # the prompts hold one twice
    for pair in pairs:
        kinds = [ascii_characters(pair[name]) % 3 > 0 for name in ("chosen", "rejected")]
        assert kinds[0] != kinds[1]
        best = []
        for answers in [answers for answers in groups if answers.prompt.iloc[0] == pair["prompt"]]:
            alike = answers[answers.response.map(lambda text: ascii_characters(text) % 3 > 0) == kinds[0]]
            best += list(alike.response[alike.reward == alike.reward.max()])
        assert pair["chosen"] in best

    original = tmp_path / "D.jsonl"
    write(original, [{"prompt": "add 1 + 1?", "chosen": "2", "rejected": "3"}])
    trained = train_rm(stack, tmp_path, original, output)
    assert f"{1 + len(pairs)}/{1 + len(pairs)}" in trained, trained[-3000:]

    flags = f"{ppo} --reward.model_name_or_path {tmp_path / 'rm'} --critic.model_name_or_path {tmp_path / 'rm'}"
    second = stack.train(tmp_path / "second", 8, flags, PPO)
    assert list(second.steps) == [1]
    assert_differ(weights(tmp_path / "second" / "out"), weights(stack.policy))
    rewards = [run.steps[1]["rollout/reward_mean"] for run in (first, second)]
    assert all(map(math.isfinite, rewards)) and rewards[0] != rewards[1]


def assert_differ(one, other):
    assert one.keys() == other.keys() and any(not torch.equal(one[name], other[name]) for name in one)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train_rm(stack, folder, *data):
    """Train on these files, in micro-batches of one pair; what was printed."""
    flags = (
        f"--model.model_name_or_path {stack.policy} --data.dataset {','.join(map(str, data))} "
        f"--eval.dataset {data[0]} --data.prompt_key prompt --data.chosen_key chosen --data.rejected_key rejected "
        "--data.max_len 64 --train.batch_size 1 --train.micro_batch_size 1 --train.max_epochs 1 --ds.zero_stage 0 "
        "--adam.lr 1e-3 --ds.attn_implementation eager "
        f"--ckpt.output_dir {folder / 'rm'} --logger.tensorboard_dir {folder / 'rm_log'}"
    )
    launcher = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    run = subprocess.run(
        [sys.executable, "-m", "openrlhf.cli.train_rm", *flags.split()],
        env={**stack_environment(), **launcher},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:]
    return run.stdout


def weights(folder):
    (file,) = folder.glob("*.safetensors")
    return load_file(file)
