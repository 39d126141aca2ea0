"""A reward model that keeps learning while it trains a policy, with real DeepSpeed and on the whole stack."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from real_stack import stack_environment
from safetensors.torch import load_file
from test_training import steps_of
from tiny_model import write_model

HERE = Path(__file__).parent

JUDGE = """
def reward_func(queries, prompts, labels):
    response = queries[0][len(prompts[0]) :].replace("<eos>", "").replace("<pad>", "")
    return {"rewards": [float(sum(character.isascii() for character in response) > 6)]}
"""


def learn(model: Path, checkpoints: Path, ranks: int, stage: int, first: int, last: int) -> dict[str, np.ndarray]:
    """Run learning_worker.py on each rank; return the rewards of the model as given and of the copy that learned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, str(HERE / "learning_worker.py"), str(model), str(checkpoints)]
    processes = []
    for rank in range(ranks):
        where = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {
            **stack_environment(),
            **where,
            "DS_ACCELERATOR": "cpu",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        arguments = [*command, *map(str, (stage, first, last))]
        process = subprocess.Popen(
            arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        processes.append(process)
    output = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * ranks, output[0][-4000:]
    (line,) = [line for line in output[0].splitlines() if line.startswith("REWARDS ")]
    return {name: np.array(values) for name, values in json.loads(line.removeprefix("REWARDS ")).items()}


@pytest.mark.slow
def test_ranks_zero_stages_and_a_resumed_run_learn_the_same_and_the_given_model_stays(tmp_path):
    model = write_model(tmp_path / "reward", seed=1)
    _keep_the_head(model)
    whole = learn(model, tmp_path / "one", 1, 0, 1, 4)
    moved = np.abs(whole["refreshed"] - whole["None"]).max()
    assert moved > 0.05, "it learned"
    by_stage = {stage: learn(model, tmp_path / f"stage{stage}", 2, stage, 1, 4) for stage in (2, 3)}
    for split in by_stage.values():
        np.testing.assert_array_equal(split["None"], whole["None"])
        # bfloat16: what ranks add up in another order differs a little.
        assert np.abs(split["refreshed"] - whole["refreshed"]).max() < 0.1 * moved
    learn(model, tmp_path / "broken", 2, 2, 1, 2)
    resumed = learn(model, tmp_path / "broken", 2, 2, 3, 4)
    np.testing.assert_array_equal(resumed["refreshed"], by_stage[2]["refreshed"])


def _keep_the_head(model: Path) -> None:
    """Give a causal model the head of a reward model, so that every rank and run starts from the same one."""
    import torch
    from safetensors.torch import save_file

    weights = load_file(model / "model.safetensors")
    torch.manual_seed(0)
    weights["score.weight"] = torch.randn(1, 64, dtype=torch.bfloat16) / 64
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


KINDS = {"sync": "", "async": "--train.async_enable", "two ranks": "--reward.num_gpus_per_node 2 --ds.zero_stage 2"}


@pytest.mark.parametrize("kind", ["sync", *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(KINDS)[1:])])
def test_a_reward_model_learns_while_it_trains_and_a_resumed_run_goes_on(stack, tmp_path, kind):
    judge, folder = tmp_path / "judge.py", tmp_path / "run"
    judge.write_text(JUDGE)
    flags = (
        f"--reward.model_name_or_path {stack.reward} {KINDS[kind]} "
        f"--sample_filter_correct refresh --sample_filter_true_share 0.5 --sample_filter_probe_score {judge} "
        "--sample_filter_correct_options learning_rate=0.001 passes=4 batch=4 --algo.advantage.estimator reinforce "
        f"--algo.kl.init_coef 0 --ckpt.save_steps 1 --sample_filter_log {folder / 'log'}"
    )
    run = stack.train(folder, 24, flags)
    assert list(run.steps) == [1, 2, 3]
    assert [step["filter/true_scores"] for step in run.steps.values()] == [16, 32, 48]
    assert all(0 <= step["filter/correct_accuracy"] <= 1 for step in run.steps.values())
    assert run.steps[3]["filter/correct_accuracy"] != run.steps[3]["filter/plain_accuracy"], "the copy moved"
    for rows in steps_of(folder).values():
        assert rows.groupby("group").score.count().isin([0, 4]).all() and rows.score.count() == 16
    given, learned = (load_file(path / "model.safetensors") for path in (stack.reward, folder / "out_reward"))
    moved = [name for name in learned if name in given and not (learned[name] == given[name]).all()]
    assert len(moved) > 5
    assert (folder / "checkpoints" / "_reward" / "latest").read_text() == "global_step3"
    if kind == "two ranks":
        for model in ("_actor", "_reward"):
            (folder / "checkpoints" / model / "latest").write_text("global_step2")
        resumed = stack.train(folder, 24, f"{flags} --ckpt.load_enable")
        assert [step["filter/true_scores"] for step in resumed.steps.values()] == [48]
