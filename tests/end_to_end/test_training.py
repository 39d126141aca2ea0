"""Filtered training on the real stack."""

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from real_stack import end, stack_environment
from tiny_model import write_prompts

HERE = Path(__file__).parent


def test_two_ranks_with_a_local_reward_model_in_a_running_cluster(stack, tmp_path):
    """13 prompts x 4 samples in rollouts of 8: the second rollout has 5 prompts, which two ranks cannot share."""
    observed = tmp_path / "run" / "observed"
    observed.mkdir(parents=True)
    cluster = RunningCluster(observed)
    try:
        run = stack.train(
            tmp_path / "run",
            13,
            f"--sample_filter best_worst --reward.model_name_or_path {stack.reward} --ds.zero_stage 2 "
            "--actor.num_gpus_per_node 2 --critic.num_gpus_per_node 2 --ref.num_gpus_per_node 2 "
            "--reward.num_gpus_per_node 2",
            RAY_ADDRESS=cluster.address,
        )
        assert cluster.process.poll() is None, "the run ended a cluster that it did not start"
    finally:
        cluster.stop()

    # The reward model scores all 13 x 4. Of 8 + 5 prompts two samples each are kept; 2 ranks x micro-batch 4 can share
    # 16 of the first 16 and 8 of the next 10, so that one prompt is dropped.
    assert {rank: sum(rows) for rank, rows in run.rows("RewardModelActor", "forward").items()} == {0: 26, 1: 26}
    for model in ("PolicyModelActor", "CriticModelActor", "ReferenceModelActor"):
        assert {rank: sum(rows) for rank, rows in run.rows(model, "forward").items()} == {0: 12, 1: 12}, model
    for trainer in ("ActorPPOTrainer", "CriticPPOTrainer"):
        assert run.rows(trainer, "train") == {0: [4, 4, 4], 1: [4, 4, 4]}, trainer

    first, second = run.steps[1], run.steps[2]
    assert (first["rollout/num_samples"], second["rollout/num_samples"]) == (32, 20)
    assert (first["filter/kept_fraction"], second["filter/kept_fraction"]) == (0.5, 8 / 20)
    assert (first["filter/dropped_prompts"], second["filter/dropped_prompts"]) == (0, 1)
    assert first["filter/kept_rank_1"] == first["filter/kept_rank_4"] == 1
    assert first["filter/reward_gap"] > 0 and first["rollout/reward_std"] > 0
    # 13 prompts x 2 kept // 8 = 3 optimizer steps in all, and the schedule ends with them, at a tenth of 1e-6.
    assert second["actor_lr"] == pytest.approx(1e-7)
    scalars = run.scalars()
    for tag in ("kept_fraction", "kept_reward_mean", "reward_gap", "flat_groups", "unusable_rewards", "kept_rank_2"):
        assert len(scalars[f"train/filter/{tag}"]) == 2, tag


def test_async_with_a_reward_function_that_fails_for_some(stack, tmp_path):
    """16 prompts; the reward of 'add 3' cannot be had at all, some of 'add 4' are NaN."""
    run = stack.train(
        tmp_path / "run",
        16,
        f"--sample_filter best_random --reward.remote_url {HERE / 'rewards.py'} --train.async_enable "
        "--algo.advantage.estimator rloo --algo.kl.init_coef 0 --rollout.batch_size 16 --train.micro_batch_size 2 "
        f"--logger.wandb.key {'0' * 40}",
        WANDB_MODE="offline",
        WANDB_DIR=str(tmp_path),
    )
    (step,) = run.steps.values()
    assert step["filter/unusable_rewards"] >= 4
    assert step["filter/dropped_prompts"] in (
        1,
        2,
    )  # 'add 3', and 'add 4' if fewer than two of its rewards are numbers
    trained = 2 * (16 - int(step["filter/dropped_prompts"]))
    assert run.samples("PolicyModelActor", "forward") == run.samples("ActorPPOTrainer", "train") == trained
    assert run.rows("CriticModelActor", "forward") == run.rows("ReferenceModelActor", "forward") == {}
    assert 0 <= step["filter/r2_all"] <= 1 and 0 <= step["filter/r2_kept"] <= 1
    assert math.isfinite(step["rollout/reward_mean"])
    (recorded,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    for name in (b"train/filter/kept_fraction", b"train/filter/r2_kept", b"train/rollout/reward_mean"):
        assert name in recorded.read_bytes()


def test_an_agent_with_dynamic_filtering_and_evaluation(stack, tmp_path):
    evaluation = write_prompts(tmp_path / "evaluation.jsonl", 3)
    run = stack.train(
        tmp_path / "run",
        16,
        f"--sample_filter best_worst --train.agent_func_path {HERE / 'agent.py'} --algo.dynamic_filtering_enable "
        "--algo.advantage.estimator group_norm --rollout.batch_size 4 "
        f"--eval.dataset {evaluation} --eval.steps 1 --eval.n_samples_per_prompt 3 --ckpt.best_metric_key none",
    )
    assert run.scalars()["eval/eval_num_samples"][0] == 3 * 3  # evaluation is not filtered
    for step in run.steps.values():
        assert step["filter/kept_fraction"] == 0.5 or step["filter/dropped_prompts"] > 0
        assert step["dynamic_filtering_pass_rate"] > 0
    scored = sum(step["rollout/num_samples"] for step in run.steps.values())
    assert 0 < run.samples("PolicyModelActor", "forward") <= scored / 2


def test_repeated_draws_with_all_models_on_one_gpu_in_an_initialised_driver(stack, tmp_path):
    """w = (1/2, 0, 0, 1/2) and k = 4: best and worst are drawn twice, forwarded once, trained twice."""
    driver = "import ray; ray.init(); from openrlhf_pf.training.launch import main; main(); print('DRIVER GOES ON')"
    run = stack.train(
        tmp_path / "run",
        8,
        "--sample_filter rank_weights --sample_filter_weights 1 0 0 1 --sample_filter_keep 4 --train.colocate_all "
        f"--reward.model_name_or_path {stack.reward} --ds.zero_stage 3",
        entry=("-c", driver),
    )
    assert "DRIVER GOES ON" in run.log
    assert run.samples("RewardModelActor", "forward") == 32
    for model in ("PolicyModelActor", "CriticModelActor", "ReferenceModelActor"):
        assert run.samples(model, "forward") == 16, model
    assert run.samples("ActorPPOTrainer", "train") == run.samples("CriticPPOTrainer", "train") == 32
    assert run.steps[1]["filter/kept_rank_1"] == 2


def test_a_killed_run_resumes_where_it_was(stack, tmp_path):
    """Four steps with a checkpoint after each and an HTTP reward; killed after the second, then started again."""
    flags = (
        "--sample_filter best_worst --algo.advantage.estimator reinforce --rollout.batch_size 4 --ckpt.save_steps 1 "
        "--ckpt.load_enable --ckpt.max_num 10"
    )
    with RewardServer() as server:
        flags += f" --reward.remote_url {server.url}"
        folder = tmp_path / "run"
        process = stack.start(folder, 16, flags)
        try:
            wait_for(folder / "checkpoints" / "_actor" / "latest", "global_step2", process)
        finally:
            end(process)
        killed = server.scored
        run = stack.train(folder, 16, flags)
    assert 32 <= killed <= 64 and server.scored > killed
    assert min(run.steps) in (3, 4) and max(run.steps) == 4
    assert all(
        step["rollout/num_samples"] == 16 and step["filter/kept_fraction"] == 0.5 for step in run.steps.values()
    )


class RunningCluster:
    """A Ray head as a user would have started it, on a port and in a folder of its own."""

    def __init__(self, observed: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        environment = {**stack_environment(), "OBSERVE_DIR": str(observed), "PYTHONPATH": str(HERE / "observer")}
        environment.pop("RAY_ADDRESS")  # a head is started, not joined
        scratch = tempfile.mkdtemp(prefix="pf", dir="/tmp")
        self.process = subprocess.Popen(
            [
                *(os.path.join(os.path.dirname(sys.executable), "ray"), "start", "--head", "--block"),
                *("--node-ip-address", "127.0.0.1", "--port", str(port), "--temp-dir", scratch),
                *("--include-dashboard", "false"),
            ],
            env={**environment, "TMPDIR": scratch},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.process.scratch = scratch
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    time.sleep(5)  # the port answers before the head has registered its node
                    return
            time.sleep(0.5)
        self.stop()
        raise RuntimeError("Ray's head did not start within 300 seconds")

    def stop(self) -> None:
        end(self.process)


class RewardServer:
    """Scores a response over HTTP, as OpenRLHF's remote reward models do."""

    def __enter__(self):
        outer = self
        self.scored = 0

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.scored += len(asked["query"])
                answer = json.dumps({"rewards": float(len(set(asked["query"][0])))}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/score"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()


def wait_for(file: Path, content: str, process: subprocess.Popen, timeout: float = 900) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if file.exists() and content in file.read_text():
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.2)
    raise AssertionError(f"no {content} in {file} within {timeout} seconds")
