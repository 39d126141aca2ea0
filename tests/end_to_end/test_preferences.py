"""The whole way on the real stack: rewards without true scores, pairs out of them, OpenRLHF's train_rm on both."""

import json
import os
import subprocess
import sys

import pytest
from real_stack import stack_environment
from true_score import ascii_characters

from openrlhf_pf import rollouts
from openrlhf_pf.cli.preferences import main

pytestmark = pytest.mark.end_to_end

# Answers of a random policy never agree: a third of their lengths does.
SAME = """
def same(prompt, responses, label):
    return [int(sum(map(str.isascii, text)) % 3 > 0) for text in responses]
"""


def test_pairs_of_an_unscored_collection_train_a_reward_model(stack, tmp_path):
    folder, samples, output = tmp_path / "run", tmp_path / "run" / "samples", tmp_path / "spg.jsonl"
    flags = f"--collect.output {samples} --collect.unscored --reward.model_name_or_path {stack.reward}"
    run = stack.train(folder, 16, flags, ("-m", "openrlhf_pf.cli.collect"))
    assert "16 prompts x 4 responses in 2 files" in run.log
    rows = rollouts.read(samples).to_pandas()
    assert rows.reward.notna().all() and rows.score.isna().all()

    (tmp_path / "same.py").write_text(SAME)
    assert rows.truncated.mean() > 0.5, "a random policy hardly ever ends an answer, so that none could win"
    file = tmp_path / "samples.jsonl"
    rows[["prompt", "group", "response", "reward"]].to_json(file, orient="records", lines=True)
    command = [str(file), "--cluster", f"{tmp_path / 'same.py'}:same", "--output", str(output)]
    assert main(command) == 0
    pairs = [json.loads(line) for line in output.read_text().splitlines()]
    assert pairs and {pair["prompt"] for pair in pairs} <= set(rows.prompt)
    for pair in pairs:
        answers = rows[rows.prompt == pair["prompt"]]
        kinds = [ascii_characters(pair[name]) % 3 > 0 for name in ("chosen", "rejected")]
        alike = answers[answers.response.map(lambda text: ascii_characters(text) % 3 > 0) == kinds[0]]
        assert kinds[0] != kinds[1] and alike.reward.max() in set(alike.reward[alike.response == pair["chosen"]])

    original = tmp_path / "D.jsonl"
    original.write_text(json.dumps({"prompt": "add 1 + 1?", "chosen": "2", "rejected": "3"}) + "\n")
    flags = (
        f"--model.model_name_or_path {stack.policy} --data.dataset {original},{output} --eval.dataset {original} "
        "--data.prompt_key prompt --data.chosen_key chosen --data.rejected_key rejected --data.max_len 64 "
        "--train.batch_size 1 --train.micro_batch_size 1 --train.max_epochs 1 --ds.zero_stage 0 "
        "--ds.attn_implementation eager "
        f"--ckpt.output_dir {tmp_path / 'rm'} --logger.tensorboard_dir {tmp_path / 'tensorboard'}"
    )
    launcher = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    trained = subprocess.run(
        [sys.executable, "-m", "openrlhf.cli.train_rm", *flags.split()],
        env={**stack_environment(), **launcher, "PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert (tmp_path / "rm" / "model.safetensors").exists() or list((tmp_path / "rm").glob("*.safetensors"))
    seen = trained.stdout + trained.stderr
    assert f"{1 + len(pairs)}/{1 + len(pairs)}" in seen, seen[-3000:]
